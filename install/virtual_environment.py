"""The virtual environment `.venv`: what it has, what is wrong with it, and how it is made anew.

A link `.venv` to a folder elsewhere is used as it is; nothing outside the checkout is ever deleted.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from install.lock_files import PYTHONS

MARKER, UNDER_WAY = "graft-installed.json", "graft-installing"
MAKE = ("-m", "venv")
_PROBE = "import importlib.util as u, sys; print(*sys.version_info[:2], sep='.'); print(u.find_spec('pip') is not None)"
_CUDA_REQUIREMENT = re.compile(r"^Requires-Dist: ((?:nvidia|cuda|triton)[a-z0-9-]*)(?!.*extra ==)", re.MULTILINE)
_MADE_AT = re.compile(r"^command = .* -m venv (?:--\S+ )*(?P<folder>.+)$", re.MULTILINE)


class InstallError(Exception):
    """The installation cannot go on; the message says what to do."""


class VirtualEnvironment:
    """The virtual environment of a checkout.

    Args:
        root: the checkout.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.python = self.folder / "bin" / "python"

    def problem(self) -> str | None:
        """The reason why it cannot be used; None where it can."""
        if not self.python.exists():
            return "its Python is gone" if self.python.is_symlink() else "it has no bin/python"
        try:
            command = [str(self.python), "-I", "-c", _PROBE]
            version, has_pip = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        except (OSError, subprocess.SubprocessError) as error:
            return f"its Python does not run: {' '.join((getattr(error, 'stderr', '') or str(error)).split())[-200:]}"
        if version not in PYTHONS:
            return f"its Python is {version}, and Graft needs {PYTHONS[0]} to {PYTHONS[-1]}"
        if has_pip != "True":
            return "it has no pip"
        made_at = self._made_at()
        if made_at and made_at.resolve() != self.folder.resolve():
            return f"it was made in {made_at} and then moved or copied"
        return None

    def _made_at(self) -> Path | None:
        """The folder that its scripts name, where it is on record."""
        config = self.folder / "pyvenv.cfg"
        found = _MADE_AT.search(config.read_text(encoding="utf-8")) if config.is_file() else None
        return Path(found["folder"]) if found else None

    def make_usable(self) -> None:
        """Make it where there is none, and anew where it is broken.

        Raises:
            InstallError: it is a link to a broken one, or this Python cannot make one.
        """
        if self._is_blank():
            self._create()
        elif problem := self.problem():
            if self.folder.is_symlink():
                raise InstallError(
                    f".venv is a link to {self.folder.readlink()}, which cannot be used: {problem}. Delete the link, "
                    "or the folder that it leads to, and try again"
                )
            print(f"install: making .venv anew: {problem}", flush=True)
            shutil.rmtree(self.folder) if self.folder.is_dir() else self.folder.unlink()
            self._create()

    def _is_blank(self) -> bool:
        if self.folder.is_symlink() and not self.folder.exists():
            target = self.folder.readlink()
            raise InstallError(
                f".venv is a link to {target}, which does not exist: make that folder or delete the link"
            )
        return not self.folder.exists() or (self.folder.is_dir() and not any(self.folder.iterdir()))

    def _create(self) -> None:
        python = getattr(sys, "_base_executable", sys.executable)  # outside the environment, where that runs this
        print(f"install: making .venv with {python}", flush=True)
        command = [python, *MAKE, str(self.folder.resolve())]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            reason = " ".join((made.stdout + made.stderr).split())[-300:]
            raise InstallError(f"{python} -m venv failed (Debian has it in the package python3-venv): {reason}")

    def site_packages(self) -> Path:
        """The folder of its packages."""
        return next(self.folder.glob("lib/python3.*/site-packages"))

    def versions(self) -> dict[str, str]:
        """Its packages' versions, without a local label such as `+cpu`."""
        pairs = (folder.stem.split("-")[:2] for folder in self.site_packages().glob("*-*.dist-info"))
        return {re.sub(r"[_.]+", "-", name).lower(): version.partition("+")[0] for name, version in pairs}

    def repair(self) -> None:
        """After a kill: forget packages that lack some of their files, so that pip installs them again."""
        if not (self.folder / UNDER_WAY).exists():
            return
        for folder in self.site_packages().glob("*.dist-info"):
            if any(not file.exists() for file in _files(folder)):
                print(f"install: {folder.stem} was installed in part; it is installed again", flush=True)
                shutil.rmtree(folder)
        for left in self.site_packages().glob("~*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()

    def python_version(self) -> str:
        """The minor version of its Python, such as `3.11`."""
        return self.site_packages().parent.name.removeprefix("python")

    def torch_version(self) -> str:
        """The version of its torch, with a local label such as `+cpu`."""
        [found] = self.site_packages().glob("torch-*.dist-info")
        return found.stem.removeprefix("torch-")

    def cuda_requirements(self) -> set[str]:
        """The CUDA libraries that its build of torch asks for, by name."""
        if sys.platform != "linux":
            return set()
        [metadata] = self.site_packages().glob("torch-*.dist-info/METADATA")
        return set(_CUDA_REQUIREMENT.findall(metadata.read_text(encoding="utf-8")))

    def graft_from(self) -> Path | None:
        """The checkout that Graft itself is installed from; None where it is not installed, or its checkout is gone."""
        for path in self.site_packages().glob("graft-*.dist-info/direct_url.json"):
            checkout = Path(unquote(urlsplit(json.loads(path.read_text(encoding="utf-8"))["url"]).path))
            return checkout if checkout.is_dir() else None
        return None

    def marked(self) -> dict[str, str]:
        """The digest of each lock that is installed completely, by the lock's name."""
        marker = self.folder / MARKER
        return dict(json.loads(marker.read_text(encoding="utf-8"))) if marker.is_file() else {}

    def mark(self, digests: dict[str, str]) -> None:
        """Record the locks that are installed completely."""
        (self.folder / MARKER).write_text(json.dumps(digests), encoding="utf-8")
        for old in self.folder.glob("installed-*"):  # the marker files of 0.1
            old.unlink()

    @contextmanager
    def under_way(self) -> Iterator[None]:
        """While packages change: nothing is marked, and `repair` knows of a kill."""
        sign = self.folder / UNDER_WAY
        (self.folder / MARKER).unlink(missing_ok=True)
        sign.touch()
        yield
        sign.unlink()


def _files(dist_info: Path) -> Iterator[Path]:
    """The files that belong to a package, its list of them first; compiled files may be missing."""
    record = dist_info / "RECORD"
    yield record
    if record.is_file():
        with record.open(encoding="utf-8", newline="") as lines:
            yield from (dist_info.parent / row[0] for row in csv.reader(lines) if not row[0].endswith(".pyc"))
