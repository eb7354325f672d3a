"""Ray head on this machine as a child process: its command line, environment, and readiness.

The process that starts it (`graft up`, the tests) owns it and stops it with SIGTERM to its pid; all its
processes end a few seconds later. Replicas have process groups of their own, so to kill it, signal the
session (start it with `start_new_session=True`) or the children, not the group. Never use `ray stop`:
it ends every Ray of this user by name.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import sys
import tempfile
from pathlib import Path

import httpx

from deployments.core.loopback import LOOPBACK
from deployments.core.ports import require_free
from deployments.core.settings import SERVE_YAML, LocalRaySettings, RaySettings, ServeSettings
from deployments.serve.ray_token import auth_headers, local_ray_environment
from tasks.core.errors import GraftError
from tasks.core.paths import STATE

CODE_ROOT = Path(__file__).resolve().parents[2]
"""The folder from which `tasks` and `deployments` are imported."""

_LONGEST_TEMP_DIR = 36
# In bytes. Ray puts sockets at TEMP/session_YYYY-MM-DD_HH-MM-SS_MICROS_PID/sockets/NAME, and Linux
# cuts such a path at 107 bytes.
_SESSIONS = "r"
_PLAIN = re.compile(r"[\w./+@=-]+", re.ASCII)


def temp_dir(root: Path) -> Path:
    """Ray's folder for sessions: `.graft/ray`, or a private one where that path is too long or not plain.

    Raises:
        GraftError: see `private_dir`.
    """
    default = root.resolve() / STATE / "ray"
    if _fits(default):
        default.mkdir(parents=True, exist_ok=True)
        return default
    private = private_dir(root) / _SESSIONS  # Ray lets everyone into its folder, so it gets one inside
    private.mkdir(exist_ok=True)
    print(f"ray: {default} is too long or has characters that Ray does not take; its session files go to {private}")
    return private


def private_dir(root: Path) -> Path:
    """A folder of this user for one root, below `TMPDIR` or `/tmp`, with a short and plain path.

    Raises:
        GraftError: it exists and is not private to this user, or both folders have too long or odd paths.
    """
    name = f"graft-{hashlib.sha256(os.fsencode(root.resolve() / STATE / 'ray')).hexdigest()[:8]}"
    candidates = [Path(tempfile.gettempdir()) / name, Path("/tmp") / name]
    private = next((path for path in candidates if _fits(path / _SESSIONS)), None)
    if private is None:
        raise GraftError(f"{candidates[0]}: too long for Ray's sockets; set TMPDIR to a shorter folder such as /tmp")
    private.mkdir(mode=0o700, exist_ok=True)
    owner = private.lstat()
    if not stat.S_ISDIR(owner.st_mode) or owner.st_uid != os.getuid() or owner.st_mode & 0o077:
        raise GraftError(f"{private}: must be a folder that only you can access (mode 0700); remove it and try again")
    return private


def _fits(path: Path) -> bool:
    return len(os.fsencode(path)) <= _LONGEST_TEMP_DIR and _is_plain(path)


def _is_plain(path: Path) -> bool:
    """Whether a path stays one word where Ray writes it into a shell's command line or into LD_PRELOAD, as it is."""
    return bool(_PLAIN.fullmatch(str(path)))


def python_of_ray(root: Path) -> str:
    """This Python; where its path is not plain, through a link to its environment that is.

    Raises:
        GraftError: see `private_dir`.
    """
    if _is_plain(Path(sys.executable)):
        return sys.executable
    link = private_dir(root) / "venv"
    link.unlink(missing_ok=True)
    link.symlink_to(sys.prefix)
    return str(link / Path(sys.executable).relative_to(sys.prefix))


def head_command(settings: LocalRaySettings, root: Path) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a Ray head in the foreground; run it with `root` as its cwd.

    Args:
        settings: `one_box.ray` in `deployments/serve.yaml`.
        root: the folder that holds `.graft/`, where the head's token is.
    """
    program = [python_of_ray(root), "-m", "deployments.serve.ray_start", "start", "--head", "--block"]
    options = {
        "node-ip-address": settings.host,
        "port": settings.gcs_port,
        "include-dashboard": "true",
        "dashboard-host": settings.host,
        "dashboard-port": settings.dashboard_port,
        "dashboard-agent-listen-port": settings.agent_port,
        # The system picks the workers' ports, so that two Rays on a machine do not collide.
        "min-worker-port": 0,
        "max-worker-port": 0,
        "num-cpus": settings.num_cpus,
        "object-store-memory": settings.object_store_mb * 1024 * 1024,
        "include-log-monitor": "false",
        "temp-dir": temp_dir(root),
        "log-color": "false",
    }
    environment = {
        **os.environ,
        **LOOPBACK,
        **node_environment(),
        **local_ray_environment(root),
        # A single node cannot drain to another one, and SIGTERM would wait for that in vain.
        "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",
    }
    return [*program, "--disable-usage-stats", *(f"--{key}={value}" for key, value in options.items())], environment


def node_environment() -> dict[str, str]:
    """The environment variables that every node of a Ray cluster needs to serve Graft."""
    return {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CODE_ROOT), os.environ.get("PYTHONPATH", "")])),
        "RAY_USAGE_STATS_ENABLED": "0",
        # A stalled replica would not end by itself, and its clients would continue to wait.
        "RAY_SERVE_FORCE_STOP_UNHEALTHY_REPLICAS": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def require_free_ports(settings: ServeSettings) -> None:
    """Check, before the local head starts, that its ports and the assistant's are free.

    Raises:
        GraftError: a port is taken; the message names it and the setting that changes it.
    """
    require_free(settings.http.host, settings.http.port, "http.port")
    for key in ("gcs_port", "dashboard_port", "agent_port"):
        require_free(settings.one_box.ray.host, getattr(settings.one_box.ray, key), f"one_box.ray.{key}")


def open_to_all(settings: RaySettings) -> bool:
    """Whether the Ray head answers without a token, as one that an older version of Graft started."""
    try:
        return httpx.get(f"http://{settings.host}:{settings.dashboard_port}/api/version", timeout=2.0).is_success
    except httpx.HTTPError:
        return False


def require_ready(settings: RaySettings) -> None:
    """Check that the cluster's Ray, which Graft did not start, answers.

    Raises:
        GraftError: it does not.
    """
    if not ready(settings):
        raise GraftError(
            f"no Ray answers at {settings.host}:{settings.dashboard_port}: start its head there, "
            f"or set cluster.ray or the profile in {SERVE_YAML}"
        )


def ready(settings: RaySettings, root: Path = Path()) -> bool:
    """Whether the Ray head answers, by one cheap request; `root` is the repository's."""
    url = f"http://{settings.host}:{settings.dashboard_port}/api/version"
    try:
        return httpx.get(url, headers=auth_headers(settings, root), timeout=2.0).is_success
    except httpx.HTTPError:
        return False
