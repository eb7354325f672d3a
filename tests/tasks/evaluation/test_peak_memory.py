"""Peak memory of the work alone, regardless of the caller's earlier use."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest

from tasks.core.errors import GraftError
from tasks.evaluation.peak_memory import with_peak_memory


def hold(mb: int) -> int:
    """Hold `mb` MiB for a moment and return the length in MiB."""
    return len(bytearray(b"x") * (mb << 20)) >> 20


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def refuse() -> None:
    raise GraftError("no")


def test_the_peak_is_of_the_work_and_not_of_who_asks_for_it() -> None:
    held = bytearray(b"x") * (400 << 20)
    result, small = with_peak_memory(partial(hold, 1), "small")
    _, large = with_peak_memory(partial(hold, 200), "large")
    assert result == 1
    assert 5 < small < 400
    assert 195 < large - small < 215
    assert len(held) == 400 << 20


def test_errors_come_through_and_a_killed_process_is_reported() -> None:
    with pytest.raises(GraftError, match=r"^no$"):
        with_peak_memory(refuse, "x")
    with pytest.raises(GraftError, match="evaluate base: its process was killed"):
        with_peak_memory(die, "evaluate base")
