"""Loopback binding: keeps Ray on 127.0.0.1, its processes by their environment, Serve's replicas by a patch.

Every replica opens a port on which it unpickles what it receives, on all interfaces, without
authentication and without a setting to prevent it. Graft does not use that port (handles go through
Ray itself), so a replica binds it to loopback, where the rest of this Ray listens.
"""

from __future__ import annotations

import ipaddress
from importlib import import_module
from typing import Any

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Environment of a head on 127.0.0.1 and of all processes that join it.

On Linux Ray replaces 127.0.0.1 by the machine's own address, and then listens on every interface,
without authentication. With this variable it assumes that clusters are not supported and stays on
loopback.
"""


def stay_on_loopback() -> None:
    """Bind the replica's port to loopback; call it in the constructor, which Serve runs before it opens the port.

    Raises:
        AttributeError: this Ray has no such function; check how its replicas listen.
    """
    # Ray Serve has no setting for this port. Without the module a replica listens on every interface.
    replica: Any = import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server

    def bind(server: Any, address: str) -> int:
        return int(add_port(server, address.replace("[::]", "127.0.0.1")))

    replica.add_port_to_grpc_server = bind


def is_loopback(host: str) -> bool:
    """Whether a host name or IP address reaches this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
