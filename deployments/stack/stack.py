"""The stack on one machine: Prefect's server, the local Ray and Prefect's worker; `up`, `down`, `status`.

With the profile `cluster`, Ray runs already, and is neither started nor stopped here. The repository
root is the working directory. `up` leaves running processes alone and restarts dead ones.
All ports are on the loopback interface unless `deployments/*.yaml` says otherwise.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deployments.app.access.api_keys import read_keys
from deployments.core.ports import require_free
from deployments.core.settings import ServeSettings, load_serve_settings
from deployments.serve import ray_head, rollout
from deployments.serve.promotion import serve_production
from deployments.serve.ray_token import local_ray_environment
from deployments.stack.environment import stack_environment
from deployments.stack.prefect_api import PrefectApi
from deployments.stack.prefect_login import SECRET, USER, make_login
from deployments.stack.processes import ProcessRecord, records, start, stop, wait_ready
from deployments.stack.stack_settings import STACK_YAML, StackSettings, load_stack_settings
from tasks.core.errors import GraftError
from tasks.core.files import sha256_file, write_json
from tasks.core.paths import RUN, SECRETS, STATE

SERVER, RAY, WORKER = "prefect", "ray", "worker"
PREFECT_YAML = Path("deployments/prefect.yaml")
DEPLOYED = STATE / "prefect" / "deployed.json"


@dataclass(frozen=True)
class Part:
    """A process of the stack, as `status` shows it."""

    name: str
    """Name of the process."""
    pid: int | None
    """Its pid; None if it was not started here."""
    running: bool
    """Whether it runs."""
    address: str
    """Its URL, or the worker's pool."""


@contextmanager
def locked(root: Path) -> Iterator[None]:
    """A lock, so that one `up` or `down` runs at a time; the next one waits."""
    path = root / RUN / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("stack: another command is starting or stopping it; waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def up() -> str | None:
    """Start the stack, deploy the flows and serve the package in production.

    Returns:
        None, or why production's package cannot be served. The rest of the stack is up in either case: a release
        and a rollback, which can repair that, need it.

    Raises:
        GraftError: a port is taken or a process does not start; the processes that this call started are stopped.
    """
    root, settings, serve = Path.cwd(), load_stack_settings(), load_serve_settings()
    with locked(root):
        make_login(root)
        alive = _living(root, settings)
        began: list[ProcessRecord] = []
        try:
            return _start_missing(root, settings, serve, alive, began)
        except BaseException:
            for record in reversed(began):
                stop(record, settings.stop_timeout_s)
            raise


def _living(root: Path, settings: StackSettings) -> set[str]:
    """Names of the running processes; the records and orphans of dead ones are removed.

    Where the server died the worker is stopped too: runs that ended meanwhile could not report their state, and
    would stay open forever; without a worker they are closed, see `reconcile`.
    """
    known = {record.name: record for record in records(root)}
    alive = {name for name, record in known.items() if record.process()}
    for name in known.keys() - alive:
        print(f"stack: {name} (pid {known[name].pid}) had died; starting it again", flush=True)
        stop(known[name], settings.stop_timeout_s)
    for name in alive & _open_to_all(root):
        print(f"stack: restarting {name}, which was started without a password or token", flush=True)
        stop(known[name], settings.stop_timeout_s)
        alive.remove(name)
    if WORKER in alive and SERVER not in alive:
        print(f"stack: restarting {WORKER}, whose runs had no server", flush=True)
        stop(known[WORKER], settings.stop_timeout_s)
        alive.remove(WORKER)
    return alive


def _open_to_all(root: Path) -> set[str]:
    """Names of the parts that answer everybody, as an older version of Graft started them."""
    local = load_serve_settings().local_ray
    ray = {RAY} if local and ray_head.open_to_all(local) else set[str]()
    return ray | ({SERVER} if PrefectApi.of_stack(root).open_to_all() else set())


def _start_missing(
    root: Path, settings: StackSettings, serve: ServeSettings, alive: set[str], began: list[ProcessRecord]
) -> str | None:
    read_keys(serve.http.host)  # an error in the keys is raised here rather than by a replica that fails to start
    api, environment = PrefectApi.of_stack(), stack_environment(root)
    prefect = [sys.executable, "-m", "prefect"]
    if SERVER not in alive:
        require_free(settings.prefect.host, settings.prefect.port, "prefect.port", STACK_YAML)
    local = serve.local_ray
    if local and RAY not in alive:
        ray_head.require_free_ports(serve)
    if not local:
        ray_head.require_ready(serve.ray)

    waiting: list[tuple[ProcessRecord, Callable[[], bool], float]] = []
    if SERVER not in alive:
        server = start(SERVER, [*prefect, "server", "start"], environment, root)
        began.append(server)
        waiting.append((server, api.healthy, settings.prefect.start_timeout_s))
    if local and RAY not in alive:
        argv, ray_environment = ray_head.head_command(local, root)
        ray = start(RAY, argv, _of_ray({**ray_environment, **environment, **local_ray_environment(root)}), root)
        began.append(ray)
        waiting.append((ray, lambda: ray_head.ready(local), local.start_timeout_s))
    for record, ready, timeout_s in waiting:
        print(f"stack: starting {record.name} (pid {record.pid})", flush=True)
        wait_ready(record, ready, timeout_s, root)

    if SERVER not in alive:
        print(f"stack: log in to {settings.prefect.url} as {USER}, with the password in {SECRETS / SECRET}", flush=True)
    api.ensure_pool(settings.worker.pool)
    deploy(root, settings, environment)
    not_served = serve_production()
    if WORKER not in alive:
        reconcile(api)
        argv = [*prefect, "worker", "start", "--pool", settings.worker.pool, "--type", "process", "--name", "graft"]
        worker = start(WORKER, argv, environment, root)
        began.append(worker)
        print(f"stack: starting {WORKER} (pid {worker.pid})", flush=True)
    _clear_unguarded(api)
    return not_served


def _of_ray(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without Prefect's password: replicas run packages and a domain's code, which need none of it."""
    return {key: value for key, value in environment.items() if not key.startswith("PREFECT_")}


def _clear_unguarded(api: PrefectApi) -> None:
    """Return all traffic to production unless a release run is under way, which analyzes its own canary."""
    if not api.runs(("RUNNING", "CANCELLING"), api.deployment("release", "release")["id"]):
        rollout.reset_traffic()


def deploy(root: Path, settings: StackSettings, environment: dict[str, str]) -> None:
    """Deploy `deployments/prefect.yaml` to the server, unless the same content was deployed before.

    Raises:
        GraftError: Prefect refused it; the next `up` tries again.
    """
    sources = [root / PREFECT_YAML, *sorted((root / "flows").rglob("*.py"))]
    made_from = [settings.prefect.url, str(root), sys.executable, *(sha256_file(p) for p in sources)]
    fingerprint = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    marker = root / DEPLOYED
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8"))["fingerprint"] == fingerprint:
        return
    print("stack: deploying flows, schedules and triggers", flush=True)
    argv = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(PREFECT_YAML)]
    done = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GraftError(f"{PREFECT_YAML}: Prefect did not take it:\n{(done.stdout + done.stderr).strip()[-2000:]}")
    write_json(marker, {"fingerprint": fingerprint})


def reconcile(api: PrefectApi) -> None:
    """Close the runs that a dead worker left open; called while no worker runs.

    Runs that were under way are marked Crashed. Of a schedule's runs whose time has passed, only the last one is
    kept, which makes up for the others; otherwise all of them would start together.
    """
    for run in api.runs(("RUNNING", "PENDING", "CANCELLING", "PAUSED")):
        print(f"stack: flow run {run['name']} was left {run['state_name']}; marking it Crashed", flush=True)
        api.set_state(run["id"], "CRASHED", "Its worker was stopped or died.", force=True)
    late = [run for run in api.runs(("SCHEDULED",)) if run["auto_scheduled"] and run["estimated_start_time_delta"] > 0]
    late.sort(key=lambda run: str(run["expected_start_time"]))
    last = {run["deployment_id"]: run["id"] for run in late}
    for run in late:
        if run["id"] not in last.values():
            api.delete_run(run["id"])


def down() -> list[str]:
    """Stop the processes that `up` started, newest first, and no others; return their names."""
    root, timeout_s = Path.cwd(), load_stack_settings().stop_timeout_s
    stopped = []
    with locked(root):
        for record in reversed(records(root)):
            if stop(record, timeout_s):
                stopped.append(record.name)
                print(f"stack: stopped {record.name} (pid {record.pid})", flush=True)
    return stopped


def status() -> list[Part]:
    """Each process of the stack, whether it runs, and its address. A cluster's Ray has no pid here."""
    settings, serve = load_stack_settings(), load_serve_settings()
    recorded = {record.name: record for record in records(Path.cwd())}
    addresses = {
        SERVER: settings.prefect.url,
        RAY: f"http://{serve.ray.host}:{serve.ray.dashboard_port}",
        WORKER: f"work pool {settings.worker.pool}",
    }
    return [
        Part(name, found.pid if found else None, _runs(name, found, serve), address)
        for name, address in addresses.items()
        for found in [recorded.get(name)]
    ]


def _runs(name: str, found: ProcessRecord | None, serve: ServeSettings) -> bool:
    if name == RAY and not serve.local_ray:
        return ray_head.ready(serve.ray)
    return bool(found and found.process())
