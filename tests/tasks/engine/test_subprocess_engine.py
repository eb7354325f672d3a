"""The subprocess engine: the loss of its process is detected, and the process never outlives its parent."""

from __future__ import annotations

import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil
import pytest

from tasks.engine.protocol import GenerationRequest, SamplingParams
from tasks.engine.resources import EXCLUSIVE
from tasks.engine.subprocess_engine import EngineLostError, SubprocessEngine
from tasks.engine.transformers import TransformersEngine
from tests.conftest import ROOT


def factory(base: Path) -> partial[TransformersEngine]:
    return partial(TransformersEngine.load, base, None, 2, "float32", EXCLUSIVE)


def test_an_error_of_the_factory_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="model_type"):
        SubprocessEngine(factory(tmp_path))


def test_a_lost_process_is_an_error_from_the_next_step_on(tiny_base: Path) -> None:
    engine = SubprocessEngine(factory(tiny_base))
    engine.submit(1, GenerationRequest((1, 40, 50), SamplingParams(1000)))
    assert engine.step()[0].key == 1
    psutil.Process(engine.pid).kill()
    with pytest.raises(EngineLostError, match="ended with exit code -9"):
        while engine.step():
            continue
    with pytest.raises((EngineLostError, OSError)):
        engine.submit(2, GenerationRequest((1, 40, 50), SamplingParams(1000)))
        engine.step()


def test_it_ends_with_who_started_it_even_by_kill(tiny_base: Path) -> None:
    program = (
        "import sys, time\nfrom functools import partial\nfrom pathlib import Path\n"
        "from tasks.engine.subprocess_engine import SubprocessEngine\nfrom tasks.engine.resources import EXCLUSIVE\n"
        "from tasks.engine.transformers import TransformersEngine\n"
        "load = partial(TransformersEngine.load, Path(sys.argv[1]), None, 2, 'float32', EXCLUSIVE)\n"
        "engine = SubprocessEngine(load)\n"
        "print(engine.pid, flush=True)\ntime.sleep(600)"
    )
    command = [sys.executable, "-c", program, str(tiny_base)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as owner:
        assert owner.stdout
        child = psutil.Process(int(owner.stdout.readline()))
        owner.kill()
        owner.wait()
    deadline = time.monotonic() + 30
    while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the engine's process outlives its owner"
        time.sleep(0.1)
