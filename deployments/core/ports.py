"""Free ports, for what runs beside others on one machine: the benchmarks' systems and the tests' stacks."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from typing import Any

from tasks.core.errors import GraftError

HOST = "127.0.0.1"
RAY_PORTS = ("gcs_port", "dashboard_port", "agent_port", "client_port")
"""Those of the section `one_box.ray` in `deployments/serve.yaml`."""


def free_port() -> int:
    """A port that is free, and stays it: outgoing connections and Ray's workers take theirs from other ranges.

    Raises:
        GraftError: none was found.
    """
    for port in random.sample(range(20000, 32000), 100):
        with socket.socket() as probe, suppress(OSError):
            probe.bind((HOST, port))
            return port
    raise GraftError(f"none of 100 ports on {HOST} is free")


def take_free_ports(serve: dict[str, Any]) -> None:
    """Put free ports for HTTP and for Ray on one box into `serve`, the content of `deployments/serve.yaml`."""
    serve["http"]["port"] = free_port()
    serve["one_box"]["ray"].update({key: free_port() for key in RAY_PORTS})
