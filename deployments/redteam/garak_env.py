"""garak's virtual environment, separate from Graft's, since the two need different versions of shared packages.

The environment lies under `.graft/garak/`, in a folder named by the hash of its lock file
(`deployments/redteam.lock`). Nothing is installed anywhere else.
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
"""The releases of garak whose settings and report this version of Graft supports."""

_INSTALLED = "installed"
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "DO_NOT_TRACK": "1"}
_INHERITED = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
}
"""The variables that are passed on, by their names in capitals."""
_ALTERNATIVE = "Or install garak 0.17 yourself and name it: `graft redteam --garak /path/to/bin/garak`."


def own_garak() -> list[str]:
    """The command of the garak under `.graft/garak/`, which is installed first if it is missing.

    Raises:
        GraftError: it could not be installed; the next call removes the partial environment and tries again.
    """
    folder = (STATE / "garak" / sha256_file(LOCK)[:12]).absolute()
    python = folder / "bin/python"
    if not (folder / _INSTALLED).is_file():
        _install(folder, python)
    return [str(python), "-m", "garak"]


def _install(folder: Path, python: Path) -> None:
    pins = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    print(
        f"redteam: downloading garak and {len(pins) - 1} packages that it needs from the package index, about "
        f"35 MB; this is done once, and {folder} is then about 190 MB",
        flush=True,
    )
    shutil.rmtree(folder, ignore_errors=True)
    # garak's further dependencies belong to other probes and other services; torch alone would be gigabytes.
    install = ["install", "--quiet", "--no-cache-dir", "--no-deps", "-r", str(LOCK)]
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", *install]
    index = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    for argv in ([sys.executable, "-m", "venv", str(folder)], pip):
        result = subprocess.run(argv, env=environment() | index, capture_output=True, text=True, check=False)
        if result.returncode != 0:
            output = "\n".join(f"  {line}" for line in (result.stdout + result.stderr).strip().splitlines()[-8:])
            raise GraftError(
                f"garak could not be installed into {folder}:\n{output}\n"
                "It comes from the package index of pip's settings (PIP_INDEX_URL); try again when that answers. "
                + _ALTERNATIVE
            )
    write_text(folder / _INSTALLED, sha256_file(LOCK) + "\n")


def named_garak(name: str) -> list[str]:
    """The command of the user's own garak, by path or name on PATH.

    Raises:
        GraftError: there is no such program.
    """
    program = shutil.which(name)
    if program is None:
        raise GraftError(f"--garak {name}: no such program; without this option Graft installs garak itself")
    return [str(Path(program).absolute())]


def require_known(command: Sequence[str]) -> str:
    """The version of a garak, if it is a supported one.

    Raises:
        GraftError: it does not start, or is another release.
    """
    output = "nothing"
    try:
        result = subprocess.run(
            [*command, "--version"], env=environment(), capture_output=True, text=True, timeout=120, check=False
        )
        output = (result.stdout + result.stderr).strip()[-800:] or output
    except (OSError, subprocess.TimeoutExpired) as error:
        output = str(error)
    version = re.search(r"garak .*?v(\d+\.\d+\S*)", output)
    if version is None:
        raise GraftError(f"{command[0]}: not a working garak; `--version` printed: {output}. {_ALTERNATIVE}")
    if not version[1].startswith(KNOWN):
        raise GraftError(f"{command[0]}: garak {version[1]} is not supported, only {KNOWN}x. {_ALTERNATIVE}")
    return version[1]


def environment(key: str | None = None, logs: Path | None = None) -> dict[str, str]:
    """The environment variables of garak and its installation: offline but for the package index, state in `.graft/`.

    garak and its packages need no secret but the endpoint's key, so only the variables in `_INHERITED` are passed
    on: no cloud account, no token of a model hub, and no settings of the user's own garak.

    Args:
        key: an API key of the endpoint.
        logs: folder whose subfolder `garak/` gets garak's own log.
    """
    inherited = {name: value for name, value in os.environ.items() if name.upper() in _INHERITED}
    state = (STATE / "garak").absolute()
    paths = {"XDG_CONFIG_HOME": state / "config", "XDG_CACHE_HOME": state / "cache"}
    folders = {name: str(path) for name, path in {**paths, "XDG_DATA_HOME": logs or state / "data"}.items()}
    keys = {"OPENAICOMPATIBLE_API_KEY": key} if key else {}
    return {**inherited, **_OFFLINE, **folders, **keys, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1", "TQDM_DISABLE": "1"}
