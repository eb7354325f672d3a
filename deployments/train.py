"""Launches the stage `train`: here, or as `train.num_workers` processes on a Ray cluster.

What is done is `tasks.train` either way; Ray Train gives each worker its rank and the process group
that accelerate finds. The workers share the folder: the same files, the same checkpoints.
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


def spread(workers: int, each: TrainWorkerSettings) -> None:
    """Run `tasks.train.main` in `workers` processes at once.

    Raises:
        GraftError: no Ray answers, it cannot place the workers, or one of them refused.
    """
    address, interface = ray_address()
    import ray
    from ray.train import RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    ray.init(
        address=address,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"env_vars": {"GLOO_SOCKET_IFNAME": interface} if interface else {}},
    )
    _require_room(ray.cluster_resources(), workers, each)
    STATE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="train-", dir=STATE.resolve()) as folder:
        said = Path(folder) / "said"
        said.touch()
        try:
            with _followed(said):
                TorchTrainer(
                    work,
                    train_loop_config={"root": str(Path.cwd()), "said": str(said), "threads": each.torch_threads},
                    scaling_config=ScalingConfig(
                        num_workers=workers, use_gpu=each.gpu, resources_per_worker=_share(each)
                    ),
                    torch_config=TorchConfig(backend="nccl" if each.gpu else "gloo"),
                    run_config=RunConfig(storage_path=folder),
                ).fit()
        except TrainingFailedError as error:
            raise _refusal(error) from error
        finally:
            ray.shutdown()


def work(config: dict[str, Any]) -> None:
    """One worker: the stage, in the folder that all share. What the first one says is shown by the launcher."""
    import torch
    from ray.train import get_context

    try:
        os.chdir(config["root"])
    except FileNotFoundError as error:
        where = f"{config['root']} is not on the machine {os.uname().nodename}"
        raise GraftError(f"{where}: put the repository where all machines of the cluster see it") from error
    torch.set_num_threads(config["threads"])
    heard = config["said"] if get_context().get_world_rank() == 0 else os.devnull
    with Path(heard).open("a", encoding="utf-8") as file, redirect_stdout(file):
        train.main()


def ray_address() -> tuple[str, str | None]:
    """The Ray that RAY_ADDRESS names, or serve.yaml's; and the interface its workers must keep to, if that is loopback.

    To be asked before ray is imported, which reads the environment then.

    Raises:
        GraftError: nobody answers there. Ray itself would ask for minutes.
    """
    here = load_serve_settings().ray
    address = os.environ.get("RAY_ADDRESS") or f"{here.host}:{here.gcs_port}"
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host, int(port))[0][4][0]
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise GraftError(
            f"train.num_workers is more than 1 in params.yaml, and no Ray answers at {address}: "
            "`graft up` starts one; RAY_ADDRESS names another (host:port)"
        ) from error
    if not ipaddress.ip_address(found).is_loopback:
        return address, None
    os.environ.update(LOOPBACK)
    interfaces = psutil.net_if_addrs().items()
    return address, next(name for name, has in interfaces if any(each.address == found for each in has))


def _share(each: TrainWorkerSettings) -> dict[str, float]:
    return {"CPU": each.cpus, **({"GPU": 1.0} if each.gpu else {})}


def _require_room(has: dict[str, float], workers: int, each: TrainWorkerSettings) -> None:
    """Ray would wait for ever for what it does not have."""
    for name, share in _share(each).items():
        if has.get(name, 0.0) < workers * share:
            room = f"{workers} workers of {share:g} {name} each, but the Ray cluster has {has.get(name, 0.0):g} in all"
            change = "lower train.num_workers in params.yaml or the share in deployments/train.yaml"
            raise GraftError(f"train.num_workers: {room}: {change}")


def _refusal(error: BaseException) -> GraftError:
    """The first worker's own words, if it had some."""
    failures = getattr(error, "worker_failures", {})
    for _, failure in sorted(failures.items()):
        for reason in (failure, getattr(failure, "cause", None), failure.__cause__):
            if isinstance(reason, GraftError):
                return GraftError(str(reason))
    return GraftError(f"train: a worker failed, run it again to go on from the last checkpoint: {error}")


@contextmanager
def _followed(path: Path, every_s: float = 0.5) -> Iterator[None]:
    """Within the block, what is written to `path` is printed here, as it comes."""
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
