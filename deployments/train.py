"""Launcher of the stage `train`: in this process, or as `train.num_workers` processes on a Ray cluster.

Both run `tasks.train`; Ray Train gives each worker its rank and the process group that accelerate uses.
The workers share one folder with the same files and the same checkpoints.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import psutil

from deployments.core.loopback import LOOPBACK
from deployments.core.settings import TrainWorkerSettings, load_serve_settings, load_worker_settings
from deployments.serve.ray_token import local_ray_environment
from tasks import train
from tasks.core.errors import GraftError, run_main
from tasks.core.paths import STATE
from tasks.core.settings import load_settings


def main() -> None:
    workers = load_settings().train.num_workers
    if workers == 1:
        train.main()
    else:
        spread(workers, load_worker_settings())


def spread(workers: int, worker_settings: TrainWorkerSettings) -> None:
    """Run `tasks.train.main` in `workers` concurrent processes.

    Raises:
        GraftError: no Ray answers, it has not enough resources for the workers, or one of them failed.
    """
    address, interface = ray_address()
    if load_serve_settings().local_ray and "RAY_ADDRESS" not in os.environ:
        os.environ.update(local_ray_environment(Path.cwd()))  # which Ray reads when it is imported
    import ray
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"GLOO_SOCKET_IFNAME": interface} if interface else {}},
    )
    _check_capacity(ray.cluster_resources(), workers, worker_settings)
    STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="train-", dir=STATE.resolve()) as folder:
        output = Path(folder) / "output"
        output.touch()
        try:
            with _printed(output):
                TorchTrainer(
                    work,
                    train_loop_config={
                        "root": str(Path.cwd()),
                        "output": str(output),
                        "threads": worker_settings.torch_threads,
                    },
                    scaling_config=ScalingConfig(
                        num_workers=workers,
                        use_gpu=worker_settings.gpu,
                        resources_per_worker=_resources(worker_settings),
                    ),
                    torch_config=TorchConfig(backend="nccl" if worker_settings.gpu else "gloo"),
                    run_config=RunConfig(storage_path=folder),
                ).fit()
        except TrainingFailedError as error:
            raise _worker_error(error) from error
        finally:
            ray.shutdown()


def work(config: dict[str, Any]) -> None:
    """Run the stage as one worker, in the shared folder; the launcher prints the output of the first worker."""
    import torch
    from ray.train import get_context

    try:
        os.chdir(config["root"])
    except FileNotFoundError as error:
        where = f"{config['root']} is not on the machine {os.uname().nodename}"
        raise GraftError(f"{where}: put the repository into a folder that all machines of the cluster share") from error
    torch.set_num_threads(config["threads"])
    output = config["output"] if get_context().get_world_rank() == 0 else os.devnull
    with Path(output).open("a", encoding="utf-8") as file, redirect_stdout(file):
        train.main()


def ray_address() -> tuple[str, str | None]:
    """The address of Ray from RAY_ADDRESS or serve.yaml, and the network interface for its workers if it is loopback.

    Call this before ray is imported, because the import reads the environment.

    Raises:
        GraftError: no Ray answers at the address. Ray itself would retry for minutes.
    """
    local = load_serve_settings().ray
    address = os.environ.get("RAY_ADDRESS") or f"{local.host}:{local.gcs_port}"
    host, _, port = address.rpartition(":")
    try:
        ip = socket.getaddrinfo(host, int(port))[0][4][0]
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise GraftError(
            f"train.num_workers is more than 1 in params.yaml, and no Ray answers at {address}: "
            "`graft up` starts one; RAY_ADDRESS names another (host:port)"
        ) from error
    if not ipaddress.ip_address(ip).is_loopback:
        return address, None
    os.environ.update(LOOPBACK)
    interfaces = psutil.net_if_addrs().items()
    return address, next(name for name, addresses in interfaces if any(each.address == ip for each in addresses))


def _resources(worker_settings: TrainWorkerSettings) -> dict[str, float]:
    return {"CPU": worker_settings.cpus, **({"GPU": 1.0} if worker_settings.gpu else {})}


def _check_capacity(cluster: dict[str, float], workers: int, worker_settings: TrainWorkerSettings) -> None:
    """Refuse more workers than fit, because Ray would wait forever for the missing resources."""
    for name, amount in _resources(worker_settings).items():
        available = cluster.get(name, 0.0)
        if available < workers * amount:
            shortage = f"{workers} workers of {amount:g} {name} each, but the Ray cluster has {available:g} in all"
            change = "lower train.num_workers in params.yaml or the share in deployments/train.yaml"
            raise GraftError(f"train.num_workers: {shortage}: {change}")


def _worker_error(error: BaseException) -> GraftError:
    """The message of the first worker that failed with a GraftError, or a general one."""
    failures = getattr(error, "worker_failures", {})
    for _, failure in sorted(failures.items()):
        for reason in (failure, getattr(failure, "cause", None), failure.__cause__):
            if isinstance(reason, GraftError):
                return GraftError(str(reason))
    return GraftError(f"train: a worker failed; run the stage again to resume from the last checkpoint: {error}")


@contextmanager
def _printed(path: Path, every_s: float = 0.5) -> Iterator[None]:
    """Within the block, print the lines that are appended to the file `path`, every `every_s` seconds."""
    done = threading.Event()

    def follow() -> None:
        with path.open(encoding="utf-8") as file:
            ended = False
            while not ended:
                ended = done.wait(every_s)
                print(file.read(), end="", flush=True)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    run_main(main)
