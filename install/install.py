"""Bring `.venv` to what the lock files say: `python -m install.install requirements.lock`, which the make targets run.

It needs nothing but a supported Python. Where all is installed it ends at once without a word; otherwise it says first
how much will be downloaded. A finished installation is recorded in `.venv` by the digest of its locks.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from install.lock_files import (
    CUDA,
    DEV,
    MODELS,
    OLDEST_GLIBC,
    PLATFORMS,
    RUNTIME,
    TORCH,
    WITHOUT_CUDA,
    read_lock,
    sizes,
    this_platform,
)
from install.virtual_environment import InstallError, VirtualEnvironment

ROOT = Path(__file__).resolve().parent.parent
TOOK = "a whole installation without CUDA took 2 minutes on two cores with a fast network"
HASHES_VARIABLE = "TORCH_HASHES"
OTHER_BUILDS = (
    f"{TORCH} takes torch from PyPI, and PyTorch's own builds without CUDA. For another build, give its sha256: "
    f"make run {HASHES_VARIABLE}=..."
)
_IGNORED = {"PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_HASHES", "PIP_NO_BINARY", "PIP_ONLY_BINARY"}


def require_supported_system() -> None:
    """Check that the locks hold for this system.

    Raises:
        InstallError: they do not.
    """
    system = this_platform()
    if system not in PLATFORMS:
        raise InstallError(f"Graft runs on {', '.join(PLATFORMS[:-1])} and {PLATFORMS[-1]}; this machine is {system}")
    name, version = platform.libc_ver()
    oldest = OLDEST_GLIBC.get(platform.machine(), 0)
    if sys.platform == "linux" and (name != "glibc" or tuple(map(int, version.split(".")[:2])) < (2, oldest)):
        found = f"{name} {version}".strip() or "another C library"
        raise InstallError(f"Graft's packages need glibc 2.{oldest} or newer; this system has {found}")


@contextmanager
def only_one(root: Path) -> Iterator[None]:
    """A lock, so that one installation into a checkout runs at a time; the next one waits."""
    with (root / RUNTIME).open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("install: another installation is under way here; waiting", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def digest(root: Path, lock: str) -> str:
    """The digest of all that determines an installation."""
    names = (TORCH, CUDA, lock, "pyproject.toml")
    texts = [(root / name).read_bytes() for name in names] + [os.environ.get(HASHES_VARIABLE, "").encode()]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def install(root: Path, lock: str) -> None:
    """Install a lock's packages and Graft itself, unless they are installed already.

    Raises:
        InstallError: it failed; pip's own reason was printed before.
    """
    require_supported_system()
    environment = VirtualEnvironment(root)
    with only_one(root):
        environment.make_usable()
        digests = {name: digest(root, name) for name in ((RUNTIME, DEV) if lock == DEV else (lock,))}
        source = environment.graft_from()
        # A linked environment may belong to another checkout, whose Graft it keeps.
        own = source == root or (source is not None and environment.folder.is_symlink())
        if own and digests.items() <= environment.marked().items():
            return
        environment.repair()
        torch = None if environment.versions().get("torch") == locked_torch(root) else offered_torch(environment)
        announce(environment, lock, torch)
        with environment.under_way():
            install_packages(environment, lock, torch)
            if not own:
                pip(environment, ["--no-deps", "--no-build-isolation", "--quiet", "--editable", "."])
            compile_modules(environment)
        environment.mark(digests)


def install_packages(environment: VirtualEnvironment, lock: str, torch: str | None) -> None:
    """Install torch, the lock's packages, and the CUDA libraries if the build of torch needs them.

    Args:
        environment: the virtual environment.
        lock: the lock.
        torch: torch's version, with the local label of its build; None where torch is there.

    Raises:
        InstallError: pip failed.
    """
    locked = ["--no-deps", "--require-hashes", "--requirement"]
    if torch:
        with torch_lock(environment.root, torch) as path:
            pip(environment, [*locked, str(path)], OTHER_BUILDS)
    pip(environment, ["--no-build-isolation", *locked, lock])
    needed = environment.cuda_requirements()
    if needed and needed <= {entry.name for entry in read_lock(environment.root / CUDA)}:
        pip(environment, [*locked, CUDA])
    elif needed:
        version = environment.torch_version()
        print(f"install: {CUDA} does not fit torch {version}; its libraries are installed without hashes", flush=True)
        pip(environment, [f"torch=={version}"])


@contextmanager
def torch_lock(root: Path, version: str) -> Iterator[Path]:
    """torch's lock file for one build: pip would prefer a wheel whose hash its index tells to one on a disk.

    With the variable `TORCH_HASHES` the build is checked by these hashes and no others.

    Raises:
        InstallError: the variable has no sha256.
    """
    given = os.environ.get(HASHES_VARIABLE, "")
    hashes = re.findall(r"\b[0-9a-f]{64}\b", given)
    if given and not hashes:
        raise InstallError(f"{HASHES_VARIABLE}: has no sha256 of 64 hexadecimal digits: {given}")
    first = {entry.name: entry for entry in read_lock(root / TORCH)}
    torch = first["torch"]
    first["torch"] = replace(torch, version=version, hashes=tuple(hashes) or torch.hashes)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / TORCH
        path.write_text("--only-binary :all:\n" + "".join(one.lines() for one in first.values()), encoding="utf-8")
        yield path


def offered_torch(environment: VirtualEnvironment) -> str:
    """The locked version of torch, with the local label of the build that pip's indexes and folders offer.

    Raises:
        InstallError: pip finds no torch.
    """
    command = pip_command(environment, ["--retries", "1", "index", "versions", "torch"])
    listed = subprocess.run(command, env=pip_settings(), capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        reason = listed.stderr.strip().splitlines()[-1:]
        raise InstallError(
            f"pip finds no torch; does its index answer (PIP_INDEX_URL, HTTPS_PROXY)? {' '.join(reason)}"
        )
    version = locked_torch(environment.root)
    builds = [one for one in re.split(r"[\s,]+", listed.stdout) if one.partition("+")[0] == version]
    return builds[0] if builds else version  # the newest is first, and one with a label is newer


def locked_torch(root: Path) -> str:
    """The locked version of torch."""
    return next(entry.version for entry in read_lock(root / TORCH) if entry.name == "torch")


def pip(environment: VirtualEnvironment, arguments: Sequence[str], hint: str = "") -> None:
    """Run `pip install` in the environment, without compiling the modules, which `compile_modules` does faster.

    Raises:
        InstallError: it failed; it has printed why.
    """
    command = pip_command(environment, ["--no-input", "install", "--no-cache-dir", "--no-compile", *arguments])
    done = subprocess.run(command, cwd=environment.root, env=pip_settings(), check=False)
    if done.returncode != 0:
        raise InstallError(f"pip could not install {arguments[-1]}; its reason is above. {hint}".strip())


def compile_modules(environment: VirtualEnvironment) -> None:
    """Compile the installed modules on all cores.

    Without it each process would compile all that it imports where Python may not write beside the modules
    (`PYTHONDONTWRITEBYTECODE`). A file that is no Python of this version is left as it is.
    """
    command = [str(environment.python), "-I", "-m", "compileall", "-qq", "-j", "0", "-x", r"/tests?/", "."]
    subprocess.run(command, cwd=environment.site_packages(), check=False)


def pip_command(environment: VirtualEnvironment, arguments: Sequence[str]) -> list[str]:
    """A command line of the environment's pip, which sees no packages of other places."""
    return [str(environment.python), "-I", "-m", "pip", "--disable-pip-version-check", *arguments]


def pip_settings() -> dict[str, str]:
    """The caller's environment variables: pip's indexes and proxies are theirs, the place is not."""
    return {key: value for key, value in os.environ.items() if key not in _IGNORED} | {"PIP_USER": "0"}


def announce(environment: VirtualEnvironment, lock: str, torch: str | None) -> None:
    """Say how much will be downloaded, and how long that took elsewhere; nothing if all packages are there."""
    entries, present = read_lock(environment.root / lock), environment.versions()
    missing = [one for one in entries if not one.marker and present.get(one.name) != one.version]
    if not missing and not torch:
        return
    most = "" if len(missing) > len(entries) // 2 else "at most "
    packages = f"{most}{sizes(environment.root / lock)[target(environment)]} MB of packages"
    parts = [packages] * bool(missing) + ([torch_download(environment, torch)] if torch else [])
    models = sizes(environment.root / RUNTIME)[MODELS]
    first = f" The first release downloads {models} MB of models and data." if torch else ""
    print(f"install: downloading {' and '.join(parts)} into .venv; {TOOK}.{first}", flush=True)


def target(environment: VirtualEnvironment) -> str:
    """The environment's system and Python, by the name that the heads of the locks have for it."""
    return f"{this_platform()}, Python {environment.python_version()}"


def torch_download(environment: VirtualEnvironment, version: str) -> str:
    """A build of torch, with its size where the locks tell it."""
    here, of_torch, of_cuda = target(environment), sizes(environment.root / TORCH), sizes(environment.root / CUDA)
    if version.endswith("+cpu"):
        return f"{of_torch[here + WITHOUT_CUDA]} MB of torch without CUDA"
    if "+" in version or os.environ.get(HASHES_VARIABLE):
        return f"torch {version}"
    if here in of_cuda:
        return f"{of_torch[here] + of_cuda[here]} MB of torch with CUDA (README.md tells how to get the small build)"
    return f"{of_torch[here]} MB of torch"


def main(lock: str) -> None:
    """Install a lock; an error is one sentence, with exit status 1."""
    try:
        install(ROOT, lock)
    except InstallError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: {ROOT}: cannot install here: {error}")
    except KeyboardInterrupt:
        sys.exit("install: stopped; the next start goes on from here")


if __name__ == "__main__":
    main(sys.argv[1])
