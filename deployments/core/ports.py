"""TCP ports: the check that a configured port is free, and free ports for the stacks of benchmarks and tests."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from deployments.core.settings import SERVE_YAML
from tasks.core.errors import GraftError

HOST = "127.0.0.1"
RAY_PORTS = ("gcs_port", "dashboard_port", "agent_port")
"""The ports in the section `one_box.ray` of `deployments/serve.yaml`."""


def free_port() -> int:
    """A free port that stays free: outgoing connections and Ray's workers use other ranges.

    Raises:
        GraftError: there is none.
    """
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise GraftError(f"none of 100 ports on {HOST} is free")


def take_free_ports(serve: dict[str, Any]) -> None:
    """Set free ports for HTTP and for Ray on one box in `serve`, the content of `deployments/serve.yaml`."""
    serve["http"]["port"] = free_port()
    serve["one_box"]["ray"].update({key: free_port() for key in RAY_PORTS})


def require_free(host: str, port: int, key: str, file: Path = SERVE_YAML) -> None:
    """Check that a server can listen on a port.

    Args:
        host: the interface.
        port: the port.
        key: the setting that names the port.
        file: the settings file of that key.

    Raises:
        GraftError: the port is taken.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As servers do: a port with old connections in TIME_WAIT only is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise GraftError(
                f"port {port} on {host} is already taken ({error.strerror}): stop what listens there, "
                f"or set {key} in {file} to a free port"
            ) from error
