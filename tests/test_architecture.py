"""The shape of the repository: who imports whom, what a stage is, and what no file may say."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "tasks": {"flows", "deployments", "prefect", "ray"},
    "deployments": {"flows", "prefect"},
    "flows": {"ray"},
}
DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
STAGES = sorted(DVC["stages"])
SLOW_STAGES = {"train", "package", "evaluate"}
PUBLIC_HOSTS = {"pypi.org", "files.pythonhosted.org", "download.pytorch.org"}


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports, at any depth: `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "this repository imports by full names"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"importlib.import_module", "import_module"}:
            yield node.lineno, ast.literal_eval(node.args[0])


def project_files(root: Path, name: str) -> Iterator[str]:
    """The files that run when the dotted `name` is imported, relative to `root`; none for other packages.

    A package's `__init__.py` counts if it has code of its own.
    """
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        stem = root.joinpath(*parts[:length])
        for path in (stem.with_suffix(".py"), stem / "__init__.py"):
            if path.is_file() and (path.name != "__init__.py" or has_code(path)):
                yield path.relative_to(root).as_posix()


def has_code(path: Path) -> bool:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def closure(root: Path, start: str) -> set[str]:
    """The project files that `start` imports, directly or not, with itself."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            source = (root / path).read_text(encoding="utf-8")
            waiting += [file for _, name in imports(source) for file in project_files(root, name)]
    return found


def against_the_arrow(root: Path) -> list[str]:
    return [
        f"{path.relative_to(root)}:{line} imports {name}"
        for folder, forbidden in FORBIDDEN.items()
        for path in sorted((root / folder).rglob("*.py"))
        for line, name in imports(path.read_text(encoding="utf-8"))
        if name.split(".")[0] in forbidden
    ]


def test_imports_follow_the_arrow() -> None:
    found = against_the_arrow(ROOT)
    assert not found, "flows/ -> deployments/ -> tasks/, prefect in flows/ only, ray in deployments/ only:\n" + (
        "\n".join(found)
    )


def test_the_arrow_sees_lazy_imports(tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/lazy.py").write_text("import json\ndef f():\n    from ray import serve\n    return serve\n")
    (tmp_path / "deployments").mkdir()
    (tmp_path / "deployments/late.py").write_text("import importlib\nimportlib.import_module('prefect.events')\n")
    assert against_the_arrow(tmp_path) == [
        "tasks/lazy.py:3 imports ray.serve",
        "deployments/late.py:2 imports prefect.events",
    ]


def test_closure_follows_lazy_and_package_imports(tmp_path: Path) -> None:
    for name, source in {
        "tasks/__init__.py": "",
        "tasks/a.py": "import json\ndef f():\n    from tasks.engine import b\n    return b\n",
        "tasks/engine/__init__.py": '"""Only words."""\n',
        "tasks/engine/b.py": "from tasks.c import value\n",
        "tasks/c.py": "value = 1\n",
        "tasks/unused.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(source)
    assert closure(tmp_path, "tasks/a.py") == {"tasks/a.py", "tasks/engine/b.py", "tasks/c.py"}
    (tmp_path / "tasks/engine/__init__.py").write_text("from tasks.unused import x\n")
    assert closure(tmp_path, "tasks/a.py") >= {"tasks/engine/__init__.py", "tasks/unused.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_module_a_section_and_a_test(stage: str) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert (ROOT / f"tasks/{stage}.py").is_file(), f"stage {stage}: write tasks/{stage}.py"
    assert stage in params, f"stage {stage}: give it a section of that name in params.yaml"
    assert (ROOT / f"tests/tasks/test_{stage}.py").is_file(), f"stage {stage}: write tests/tasks/test_{stage}.py"
    wanted = f"python -m {launcher(stage)}"
    assert DVC["stages"][stage]["cmd"] == wanted, f"stage {stage}: its cmd must be `{wanted}`"


def launcher(stage: str) -> str:
    """The module that runs a stage: the stage's own, or that of the same name in deployments/, which places it."""
    folder = "deployments" if (ROOT / f"deployments/{stage}.py").is_file() else "tasks"
    return f"{folder}.{stage}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_it_imports(stage: str) -> None:
    """A stage that takes minutes lists files, so that no other edit makes it stale; a quick one may list folders."""
    deps = {dep if isinstance(dep, str) else next(iter(dep)) for dep in DVC["stages"][stage].get("deps", [])}
    code = {dep for dep in deps if dep.split("/")[0] in FORBIDDEN}
    imported = closure(ROOT, launcher(stage).replace(".", "/") + ".py")
    wanted = imported if stage in SLOW_STAGES else {code_folder(path) for path in imported}
    assert code == wanted, "\n".join(
        [
            f"dvc.yaml, stages.{stage}.deps",
            *(f"    add:    - {path}" for path in sorted(wanted - code)),
            *(f"    remove: - {path}" for path in sorted(code - wanted)),
        ]
    )


def code_folder(path: str) -> str:
    """The folder below `tasks/` or `deployments/` that holds a module, or the module itself beside the stages."""
    parts = path.split("/")
    return "/".join(parts[:2]) if len(parts) > 2 else path


def test_a_changed_prompt_makes_all_that_renders_it_stale() -> None:
    """Each by itself: what a stage hands on may be the same with another prompt. The package never is."""
    readers = {name for name, stage in DVC["stages"].items() if "data/prompts" in stage.get("deps", [])}
    assert readers == {name for name in STAGES if reads_prompts(name)}
    assert readers == {"contract", "train", "package"}
    assert "build/package" in DVC["stages"]["package"]["outs"]
    assert "build/package" in DVC["stages"]["evaluate"]["deps"]


def reads_prompts(stage: str) -> bool:
    """Whether a stage's module knows where the prompts lie."""
    source = (ROOT / f"tasks/{stage}.py").read_text(encoding="utf-8")
    return any(name == "tasks.core.paths.PROMPTS" for _, name in imports(source))


def repository_texts() -> Iterator[tuple[str, str]]:
    """Path and text of every file that git tracks, or would; pictures and the like are left out."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        path = ROOT / name
        if path.is_file() and b"\0" not in (content := path.read_bytes()):
            yield name, content.decode("utf-8", errors="replace")


def private_indexes() -> set[str]:
    """Hosts and folders that this machine's pip takes packages from, apart from the public ones."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    lines = [line for line in listing.stdout.splitlines() if re.match(r"\S*(?:index-url|find-links)=", line)]
    places = [urlsplit(place) for line in lines for place in line.split("=", 1)[1].strip("'\"").split()]
    return {place.hostname or place.path for place in places} - PUBLIC_HOSTS


def test_no_file_names_a_machine() -> None:
    """Neither a private package index nor a path that exists on one machine only."""
    places = re.compile(r"(?<![\w.~}/-])/(?:work|root|home/\w+|Users/\w+|tmp/w)/")
    index = re.compile(r"(?:index[-_]url|find-links|registry)\W{1,4}https?://([\w.-]+)")
    private = private_indexes()
    found = []
    for name, text in repository_texts():
        found += [f"{name}: the path {match[0]}" for match in places.finditer(text)]
        found += [f"{name}: the index {host}" for host in index.findall(text) if host not in PUBLIC_HOSTS]
        found += [f"{name}: this machine's package index" for place in private if place in text]
    assert not found, "\n".join(found)
