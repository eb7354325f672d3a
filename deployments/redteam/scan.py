"""Red-team scan (`graft redteam`): garak's attacks on the assistant in production, over HTTP like any client's.

The attacks are turns like any other: they become telemetry rows, and count against the rate limits of their key.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from deployments.app.access.api_keys import read_keys
from deployments.app.guardrails.refusal import ANSWER, ATTACK, FAILED, RULED_OUT
from deployments.core.settings import RedteamSettings, ServeSettings, load_redteam_settings, load_serve_settings
from deployments.redteam.garak_env import environment, named_garak, own_garak, require_known
from deployments.serve import rollout
from deployments.stack.processes import tail
from tasks.core.errors import GraftError
from tasks.core.files import write_json, write_text
from tasks.core.paths import REPORTS
from tasks.monitoring.telemetry_row import REDTEAM_OWNER
from tasks.safety.garak_report import RefusalPatterns, Scan, details, overview, read_report

REFUSALS = (ATTACK, ANSWER, FAILED, RULED_OUT)
"""The beginnings of answers with which a check or a rule replaced the model's; garak keeps no `finish_reason`."""

OUTPUT = "output.log"

_PREFIX = "garak"
_CONFIG = "garak.yaml"
_REPORT = f"{_PREFIX}.report.jsonl"
_PAGE = f"{_PREFIX}.report.html"
_POLL_S = 1.0
_GRACE_S = 10.0
_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_QUEUE = re.compile(r"queue of probes: (.*)")


def redteam(garak: str | None = None) -> str:
    """Scan the package in production; return the success rates by family of probes, and the paths of the reports.

    The folder `.graft/reports/redteam/TIME-DIGEST/` keeps garak's own report (JSON lines and HTML), its
    settings, output and log, and `summary.json` and `summary.md`.

    Args:
        garak: a program to use instead of the garak that Graft installs.

    Raises:
        GraftError: no package is in production, garak is not available, or it did not finish. Successful attacks
            are results and no error.
    """
    settings, serve = load_redteam_settings(), load_serve_settings()
    digest = rollout.served().production
    if digest is None:
        raise GraftError(f"no package is in production at {rollout.base_url()}; release one with `graft run`")
    command = named_garak(garak) if garak else own_garak()
    version = require_known(command)
    began = datetime.now(UTC)
    folder = (REPORTS / "redteam" / f"{began:%Y%m%dT%H%M%SZ}-{digest[:12]}").absolute()
    config = garak_config(settings, serve, rollout.base_url(), folder)
    write_text(folder / _CONFIG, yaml.safe_dump(config, sort_keys=False))
    print(f"redteam: garak {version} attacks {rollout.base_url()}; its output is in {folder / OUTPUT}", flush=True)
    scan([*command, "--config", str(folder / _CONFIG)], folder, settings.timeout_s)

    patterns = RefusalPatterns(refusals=REFUSALS, fallbacks=frozenset({serve.fallback.static_message}))
    try:
        results = read_report(folder / _REPORT, patterns)
    except GraftError as error:
        raise GraftError(f"{error}\nThe end of {folder / OUTPUT}:\n{tail(folder / OUTPUT)}") from error
    completed = {result.probe for result in results}
    report = Scan(
        digest=digest,
        garak=version,
        started=f"{began:%Y-%m-%d %H:%M} UTC",
        seed=settings.seed,
        prompts_per_probe=settings.prompts_per_probe,
        probes=tuple(results),
        not_run=tuple(name for name in queued(folder / OUTPUT) if name not in completed),
    )
    write_json(folder / "summary.json", summary(report))
    write_text(folder / "summary.md", f"{overview(report)}\n{details(report)}")
    files = {"results by probe": "summary.md", "garak's report": _PAGE, "all prompts and answers": _REPORT}
    return "\n".join([overview(report), *(f"- {title}: {folder / name}" for title, name in files.items())])


def garak_config(settings: RedteamSettings, serve: ServeSettings, base_url: str, folder: Path) -> dict[str, Any]:
    """garak's settings for one run, without the API key.

    The model is attacked as it is served: greedy, with the package's own limit of tokens, regardless of the settings
    of garak or a probe. garak repeats requests that are rejected temporarily (429, 503, 504) until they are answered.

    Args:
        settings: probes, seed and concurrency.
        serve: limits of the service.
        base_url: base URL of the OpenAI API.
        folder: folder of the report.
    """
    as_served = ["n", "stop", "temperature", "top_p", "max_tokens", "frequency_penalty", "presence_penalty"]
    endpoint = {
        "uri": base_url,
        "suppressed_params": as_served,
        "extra_params": {"timeout": serve.engine.request_timeout_s + 10},
    }
    parallel = min(settings.parallel, serve.limits.streams, serve.engine.max_num_seqs)
    return {
        "system": {"parallel_attempts": parallel, "max_workers": parallel},
        "run": {
            "seed": settings.seed,
            "generations": 1,
            "soft_probe_prompt_cap": settings.prompts_per_probe,
            "spec": {
                "include": [f"probes.{name}" for name in settings.families],
                "exclude": [f"probes.{name}" for name in settings.exclude],
            },
        },
        "plugins": {
            "target_type": "openai.OpenAICompatible",
            "target_name": "production",
            "extended_detectors": False,
            # By default this probe sends all of its 168 prompts, regardless of the cap.
            "probes": {"latentinjection": {"LatentWhois": {"follow_prompt_cap": True}}},
            "generators": {"openai": {"OpenAICompatible": endpoint}},
        },
        "reporting": {"report_dir": str(folder), "report_prefix": _PREFIX},
    }


def summary(scan: Scan) -> dict[str, Any]:
    """The scan with its success rates, as JSON for programs."""
    rates = {name: counts.rate for name, counts in scan.families().items()}
    return {**scan.model_dump(mode="json"), "success": {"families": rates, "all": scan.total().rate}}


def queued(log: Path) -> list[str]:
    """The probes that garak has announced in its output."""
    text = _COLOR.sub("", log.read_text(encoding="utf-8", errors="replace"))
    match = _QUEUE.search(text)
    return match[1].split(", ") if match else []


def scan(argv: Sequence[str], folder: Path, timeout_s: float) -> None:
    """Run garak to its end, and print a line for each finished probe.

    Raises:
        GraftError: garak failed, or did not finish within `timeout_s` seconds.
    """
    keys = read_keys()
    key = keys.get(REDTEAM_OWNER) or next(iter(keys.values()), "none")
    deadline, printed = time.monotonic() + timeout_s, 0
    with _running(argv, environment(key, folder), folder) as process:
        while process.poll() is None:
            if time.monotonic() > deadline:
                raise GraftError(
                    f"garak did not finish within {timeout_s:.0f} s; raise timeout_s or lower prompts_per_probe in "
                    f"deployments/redteam.yaml; the results so far are in {folder}"
                )
            time.sleep(_POLL_S)
            printed = _print_progress(folder, printed)
    _print_progress(folder, printed)
    if process.returncode != 0:
        log = folder / OUTPUT
        raise GraftError(f"garak failed (exit status {process.returncode}); the end of {log}:\n{tail(log)}")


def _print_progress(folder: Path, printed: int) -> int:
    """Print the finished probes after the first `printed` ones; return the number of finished probes."""
    log, report = folder / OUTPUT, folder / _REPORT
    lines = report.read_text(encoding="utf-8", errors="replace").splitlines() if report.is_file() else []
    done = [json.loads(line) for line in lines if line.startswith('{"entry_type": "eval"') and line.endswith("}")]
    for number, entry in enumerate(done[printed:], start=printed + 1):
        result = f"{entry['fails']} of {entry['total_evaluated']} answered attacks succeeded"
        print(f"redteam: {number}/{len(queued(log))} {entry['probe']}: {result}", flush=True)
    return len(done)


@contextmanager
def _running(argv: Sequence[str], env: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """garak and its workers, in a session of their own, which ends with the block."""
    with (folder / OUTPUT).open("wb") as log:
        process = subprocess.Popen(
            argv, cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the session with SIGTERM, then SIGKILL, since a worker may outlive garak itself."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
