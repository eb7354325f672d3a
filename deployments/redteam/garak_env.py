"""garak in an environment of its own: it wants other versions than Graft of what both use.

The environment lies under `.graft/garak/`, in a folder named by the list of packages that it is made
from (`deployments/redteam.lock`). Nothing is installed anywhere else.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from tasks.core.errors import GraftError
from tasks.core.files import sha256_file, write_text
from tasks.core.paths import STATE

LOCK = Path("deployments/redteam.lock")
KNOWN = "0.17."
"""Releases of garak whose settings and report are understood here."""

_INSTALLED = "installed"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
_OTHERS = "Or install garak 0.17 yourself and name it: `graft redteam --garak /path/to/bin/garak`."


def own_garak() -> list[str]:
    """The command of the garak under `.graft/garak/`, installed first where it is not there.

    Raises:
        GraftError: it could not be installed; what there is of it is made anew next time.
    """
    folder = (STATE / "garak" / sha256_file(LOCK)[:12]).absolute()
    python = folder / "bin/python"
    if not (folder / _INSTALLED).is_file():
        _install(folder, python)
    return [str(python), "-m", "garak"]


def _install(folder: Path, python: Path) -> None:
    pins = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    print(
        f"redteam: fetching garak and {len(pins) - 1} packages that it needs here from the package index, about "
        f"35 MB; it is done once, and {folder} is then about 190 MB",
        flush=True,
    )
    shutil.rmtree(folder, ignore_errors=True)
    # What garak names beyond the list belongs to other probes and other services; torch alone would be gigabytes.
    wanted = ["install", "--quiet", "--no-cache-dir", "--no-deps", "-r", str(LOCK)]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", *wanted]
    for argv in ([sys.executable, "-m", "venv", str(folder)], pip):
        done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = "\n".join(f"  {line}" for line in (done.stdout + done.stderr).strip().splitlines()[-8:])
            raise GraftError(
                f"garak could not be installed into {folder}:\n{said}\n"
                "It comes from the package index that pip is set to (PIP_INDEX_URL); try again when that answers. "
                + _OTHERS
            )
    write_text(folder / _INSTALLED, sha256_file(LOCK) + "\n")


def named_garak(name: str) -> list[str]:
    """The command of a garak that a person names, by path or as found on PATH.

    Raises:
        GraftError: there is no such program.
    """
    found = shutil.which(name)
    if found is None:
        raise GraftError(f"--garak {name}: no such program; leave the option out and Graft installs one of its own")
    return [str(Path(found).absolute())]


def require_known(command: Sequence[str]) -> str:
    """The version of a garak, if it is one that is understood.

    Raises:
        GraftError: it does not start, or is another release.
    """
    said = "nothing"
    try:
        done = subprocess.run(
            [*command, "--version"], env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        said = (done.stdout + done.stderr).strip()[-800:] or said
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    version = re.search(r"garak .*?v(\d+\.\d+\S*)", said)
    if version is None:
        raise GraftError(f"{command[0]}: no garak that starts; it said: {said}")
    if not version[1].startswith(KNOWN):
        raise GraftError(f"{command[0]}: garak {version[1]}; only {KNOWN}x is understood here. {_OTHERS}")
    return version[1]


def environment(key: str | None = None, logs: Path | None = None) -> dict[str, str]:
    """What garak and its installation run in: offline but for the package index, with state under `.graft/`.

    None of Graft's own modules and keys are in it, and no settings of the person's own garak.

    Args:
        key: an API key of the endpoint's.
        logs: garak's own log goes into `garak/` there.
    """
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "GRAFT_API_KEYS"}}
    state = (STATE / "garak").absolute()
    places = {"XDG_CONFIG_HOME": state / "config", "XDG_CACHE_HOME": state / "cache"}
    folders = {name: str(place) for name, place in {**places, "XDG_DATA_HOME": logs or state / "data"}.items()}
    keys = {"OPENAICOMPATIBLE_API_KEY": key} if key else {}
    return {**kept, **_OFFLINE, **folders, **keys, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
