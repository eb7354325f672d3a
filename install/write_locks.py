"""The writer of the lock files: `make lock` runs it in an environment of its own that has uv and packaging.

uv resolves pyproject.toml for all Pythons and platforms at once and lists every file with its size and sha256; the
locks keep those that a supported environment can take. Versions that are locked stay, as far as pyproject.toml allows
them; `make lock UPGRADE=--upgrade` takes the newest. The command fails, and writes nothing, where a supported
environment finds no wheel of a package that is not named in `SOURCE_ONLY`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import unquote

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import canonicalize_name, parse_wheel_filename

from install.lock_files import (
    CUDA,
    DEV,
    MODELS,
    OLDEST_GLIBC,
    PLATFORMS,
    PYTHONS,
    RUNTIME,
    SOURCE_ONLY,
    TORCH,
    WITHOUT_CUDA,
    Locked,
    read_lock,
)

ROOT = Path(__file__).resolve().parent.parent
DEV_EXTRAS = ("dev", "presidio")
NEWEST_GLIBC = 45
OLDEST_MACOS, NEWEST_MACOS = 14, 26
MB = 1_000_000
_MODEL = re.compile(r"pypi://([\w.-]+==\d[\w.]*)/")
_MODEL_SOURCES = ("params.yaml", "data/prompt_injection_sources.yaml")

# PyTorch's own index has builds without CUDA, which PyPI has not; sha256 and MB as that index lists them.
TORCH_CPU_BUILDS = {
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl": (
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"
    ),
    "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_x86_64.whl": (
        "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2"
    ),
    "torch-2.13.0+cpu-cp313-cp313-manylinux_2_28_x86_64.whl": (
        "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6"
    ),
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_aarch64.whl": (
        "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7"
    ),
    "torch-2.13.0+cpu-cp312-cp312-manylinux_2_28_aarch64.whl": (
        "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604"
    ),
    "torch-2.13.0+cpu-cp313-cp313-manylinux_2_28_aarch64.whl": (
        "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d"
    ),
}
TORCH_CPU_MB = {"x86_64": 192, "aarch64": 155}


@dataclass(frozen=True)
class File:
    """A file of a package on the index."""

    name: str
    """File name."""
    size: int
    """In bytes."""
    sha256: str
    """Its sha256."""

    @property
    def is_wheel(self) -> bool:
        """Whether it is a wheel; otherwise it is a source archive."""
        return self.name.endswith(".whl")


@dataclass(frozen=True)
class Resolved:
    """A package as uv resolved it."""

    name: str
    """Its normalized name."""
    version: str
    """Its version."""
    marker: str
    """The environments that need it; empty for all."""
    files: tuple[File, ...]
    """Its files on the index."""


@dataclass(frozen=True)
class Target:
    """A supported Python on a supported platform."""

    python: str
    """Its version, such as `3.11`."""
    platform: str
    """One of `PLATFORMS`."""

    @property
    def name(self) -> str:
        """Its name in the heads of the locks."""
        return f"{self.platform}, Python {self.python}"

    def needs(self, marker: str) -> set[bool]:
        """Whether the marker holds, for the first and for a later patch release of this Python."""
        return {not marker or Marker(marker).evaluate(dict(self._environment(patch))) for patch in ("0", "20")}

    def _environment(self, patch: str) -> Mapping[str, str]:
        system, machine = self.platform.split()
        return {
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "os_name": "posix",
            "platform_machine": machine,
            "platform_system": "Darwin" if system == "macOS" else system,
            "sys_platform": "darwin" if system == "macOS" else "linux",
            "python_version": self.python,
            "python_full_version": f"{self.python}.{patch}",
            "extra": "",
        }

    def wheel(self, files: Iterable[File], newest: bool = False) -> File | None:
        """The wheel that pip prefers on the oldest system that is supported, or on the newest."""
        order = _tags(self, newest)
        fitting = [(min(ranks), file) for file in files if file.is_wheel and (ranks := _ranks(file.name, order))]
        return min(fitting, key=lambda pair: pair[0])[1] if fitting else None


TARGETS = [Target(python, platform) for platform in PLATFORMS for python in PYTHONS]


@cache
def _tags(target: Target, newest: bool) -> Mapping[Tag, int]:
    system, machine = target.platform.split()
    if system == "macOS":
        platforms = list(mac_platforms((NEWEST_MACOS if newest else OLDEST_MACOS, 0), machine))
    else:
        glibc = range(NEWEST_GLIBC if newest else OLDEST_GLIBC[machine], 4, -1)
        old = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}
        platforms = [f"{name}_{machine}" for n in glibc for name in (f"manylinux_2_{n}", old.get(n)) if name]
        platforms.append(f"linux_{machine}")
    version = tuple(map(int, target.python.split(".")))
    interpreter = f"cp{version[0]}{version[1]}"
    tags = [*cpython_tags(version, platforms=platforms), *compatible_tags(version, interpreter, platforms)]
    return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}


def _ranks(wheel: str, order: Mapping[Tag, int]) -> list[int]:
    return [order[tag] for tag in parse_wheel_filename(wheel)[3] if tag in order]


def resolve(requirements: Sequence[str], kept: Iterable[Locked] = (), options: Sequence[str] = ()) -> list[Resolved]:
    """Resolve requirements for all targets with uv.

    Args:
        requirements: requirements as pip takes them, or the path of pyproject.toml.
        kept: packages whose versions stay as far as the requirements allow.
        options: further options of `uv pip compile`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        versions, files = folder / "versions.txt", folder / "pylock.toml"
        pins = [f"{one.name}=={one.version}" + (f" ; {one.marker}" if one.marker else "") for one in kept]
        versions.write_text("\n".join(dict.fromkeys(pins)), encoding="utf-8")
        source = ROOT / "pyproject.toml"
        if list(requirements) != [str(source)]:
            source = folder / "requirements.in"
            source.write_text("\n".join(requirements), encoding="utf-8")
        _uv([str(source), *options, "--output-file", str(versions)])
        _uv([str(source), *options, "--constraints", str(versions), "--format", "pylock.toml", "-o", str(files)])
        listing = tomllib.loads(files.read_text(encoding="utf-8"))["packages"]
        return [_resolved(line, listing) for line in versions.read_text(encoding="utf-8").splitlines()]


def _uv(arguments: Sequence[str]) -> None:
    universal = ["--universal", "--python-version", PYTHONS[0], "--fork-strategy", "fewest"]
    uv = str(Path(sys.executable).parent / "uv")
    command = [uv, "pip", "compile", "--quiet", "--no-annotate", "--no-header", *universal]
    subprocess.run([*command, *arguments], check=True)


def _resolved(line: str, listing: Sequence[Mapping[str, object]]) -> Resolved:
    requirement = Requirement(line)
    name = canonicalize_name(requirement.name)
    version = str(requirement.specifier).removeprefix("==")
    [package] = [one for one in listing if one["name"] == name and one["version"] == version]
    files = tuple(_files(package))
    marker = str(requirement.marker or "").replace('"', "'")
    return Resolved(name, version, marker, files)


def _files(package: Mapping[str, object]) -> Iterator[File]:
    entries = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]  # type: ignore[misc]
    for entry in entries:
        name = entry.get("name") or unquote(entry["url"].rpartition("/")[2])
        yield File(name, entry["size"], entry["hashes"]["sha256"])


def needed_by(package: Resolved) -> list[Target]:
    """The targets that need a package."""
    return [target for target in TARGETS if True in target.needs(package.marker)]


def locked(package: Resolved) -> Locked | None:
    """The lock's entry of a package; None where no target needs it.

    Raises:
        SystemExit: a target has no wheel, although the package is not named in `SOURCE_ONLY`.
    """
    targets = needed_by(package)
    if not targets:
        return None
    everywhere = targets == TARGETS and all(target.needs(package.marker) == {True} for target in targets)
    marker = "" if everywhere else package.marker
    bare = [target.name for target in targets if target.wheel(package.files) is None]
    if bool(bare) != (package.name in SOURCE_ONLY):
        sys.exit(
            f"{package.name}=={package.version}: "
            + (f"no wheel for {'; '.join(bare)}" if bare else "has wheels; take it out of SOURCE_ONLY")
        )
    usable = [file for file in package.files if _usable(file, package.name, targets)]
    return Locked(package.name, package.version, marker, tuple(sorted(file.sha256 for file in usable)))


def _usable(file: File, name: str, targets: Iterable[Target]) -> bool:
    if name in SOURCE_ONLY:
        return not file.is_wheel
    return any(target.wheel([file], newest=True) for target in targets)


def download(packages: Iterable[Resolved], target: Target) -> int:
    """The size of what one target downloads, in bytes."""
    needed = [package for package in packages if True in target.needs(package.marker)]
    chosen = [target.wheel(package.files) or next(iter(package.files)) for package in needed]
    return sum(file.size for file in chosen)


def lock_text(what: str, packages: Iterable[Resolved], heads: Iterable[str]) -> str:
    """The content of a lock file.

    Args:
        what: its content, as a phrase.
        packages: its packages.
        heads: lines of its head, after the first.

    Raises:
        SystemExit: see `locked`.
    """
    entries = [entry for package in packages if (entry := locked(package))]
    text = [f"# {what}.\n# Written by `make lock` from pyproject.toml; install/lock_files.py describes the locks.\n"]
    text += [f"# {line}\n" for line in heads]
    named = sorted(SOURCE_ONLY & {entry.name for entry in entries})
    text += ["--only-binary :all:\n", *(f"--no-binary {name}\n" for name in named)]
    text += [entry.lines() for entry in sorted(entries, key=lambda entry: entry.name)]
    return "".join(text)


def download_lines(packages: Sequence[Resolved], targets: Iterable[Target]) -> list[str]:
    """The head's lines with the download of each target."""
    return [f"{round(download(packages, target) / MB)} MB: {target.name}" for target in targets]


def with_cpu_builds(torch: Resolved) -> Resolved:
    """torch with PyTorch's own builds without CUDA.

    Raises:
        SystemExit: `TORCH_CPU_BUILDS` is of another version.
    """
    if any(not name.startswith(f"torch-{torch.version}+cpu-") for name in TORCH_CPU_BUILDS):
        sys.exit(f"install/write_locks.py: TORCH_CPU_BUILDS is not of torch {torch.version}, which pyproject.toml asks")
    machines = {name: name.rpartition("2_28_")[2].removesuffix(".whl") for name in TORCH_CPU_BUILDS}
    cpu = [File(name, TORCH_CPU_MB[machines[name]] * MB, sha256) for name, sha256 in TORCH_CPU_BUILDS.items()]
    return Resolved(torch.name, torch.version, torch.marker, (*cpu, *torch.files))


def torch_lines(torch: Resolved) -> list[str]:
    """The head's lines with the builds of torch that each target can take."""
    without = {target: target.wheel(file for file in torch.files if "+cpu-" in file.name) for target in TARGETS}
    lines = [f"{round(file.size / MB)} MB: {target.name}{WITHOUT_CUDA}" for target, file in without.items() if file]
    index = Resolved(torch.name, torch.version, torch.marker, tuple(f for f in torch.files if "+cpu-" not in f.name))
    return [*download_lines([index], TARGETS), *lines]


def model_sources() -> list[str]:
    """The wheels that the first release takes models and data from, as requirements."""
    texts = [(ROOT / name).read_text(encoding="utf-8") for name in _MODEL_SOURCES]
    return sorted({requirement for text in texts for requirement in _MODEL.findall(text)})


def main() -> None:
    upgrade = ["--upgrade"] if "--upgrade" in sys.argv[1:] else []
    paths = {name: ROOT / name for name in (RUNTIME, DEV, TORCH, CUDA)}
    kept = [] if upgrade else [entry for path in paths.values() if path.exists() for entry in read_lock(path)]
    pyproject = [str(ROOT / "pyproject.toml")]

    runtime = resolve(pyproject, kept, upgrade)
    pins = [Locked(one.name, one.version, one.marker, ()) for one in runtime]
    extras = [word for extra in DEV_EXTRAS for word in ("--extra", extra)]
    dev = resolve(pyproject, [*pins, *kept], [*upgrade, *extras])
    if moved := {(one.name, one.version) for one in runtime} - {(one.name, one.version) for one in dev}:
        sys.exit(f"{DEV}: other versions than {RUNTIME} has: {sorted(moved)}")

    by_name = {package.name: package for package in runtime}
    torch = with_cpu_builds(by_name["torch"])
    of_torch = resolve([f"torch=={torch.version}"], pins)
    cuda = [one for one in of_torch if not any(target.platform == "macOS arm64" for target in needed_by(one))]
    separate = {"torch", *(one.name for one in cuda)}
    runtime, dev = ([one for one in packages if one.name not in separate] for packages in (runtime, dev))
    models = sum(download([one], TARGETS[0]) for one in resolve(model_sources(), options=["--no-deps"]))

    linux = [target for target in TARGETS if target.platform.startswith("Linux")]
    first = [torch, by_name["setuptools"]]
    heads = [*download_lines(runtime, TARGETS), f"{round(models / MB)} MB: {MODELS}"]
    texts = {
        TORCH: lock_text("torch, and setuptools, installed first", first, torch_lines(torch)),
        CUDA: lock_text("The CUDA libraries of PyPI's torch for Linux", cuda, download_lines(cuda, linux)),
        RUNTIME: lock_text("All that Graft needs to run, but torch", runtime, heads),
        DEV: lock_text("All that Graft needs to run and to be tested, but torch", dev, download_lines(dev, TARGETS)),
    }
    for name, text in texts.items():
        paths[name].write_text(text, encoding="utf-8")
        print(f"{name}: {len(read_lock(paths[name]))} packages, with wheels for {len(TARGETS)} Pythons and platforms")


if __name__ == "__main__":
    main()
