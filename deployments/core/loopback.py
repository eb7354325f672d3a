"""Keep Ray on loopback: its processes by their environment, Serve's replicas by hand.

Every replica opens a port on which it unpickles what it is sent, on all interfaces, without a
password and without a setting to prevent it. Nothing here uses that port (handles go through Ray
itself), so a replica binds it to loopback, where the rest of this Ray listens.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""For a head on 127.0.0.1 and all who join it. On Linux Ray puts the machine's own address in place of
127.0.0.1, and then listens on every interface, without a password. Where it believes that clusters
are not supported it stays on loopback.
"""


def stay_on_loopback() -> None:
    """Call in a replica's constructor, which Serve runs before it opens the port.

    Raises:
        AttributeError: this Ray has no such function; look again at how its replicas listen.
    """
    # Ray Serve has no setting for this port. Without the module a replica listens on every interface.
    replica: Any = import_module("ray.serve._private.replica")
    add_port = replica.add_port_to_grpc_server

    def bind(server: Any, address: str) -> int:
        return int(add_port(server, address.replace("[::]", "127.0.0.1")))

    replica.add_port_to_grpc_server = bind
