"""The architecture of the repository: layers, entry points, dependencies, and how each module is documented.

Each rule is a function that takes the root of a tree and returns what breaks it; below it stands a
test on a small tree that does. `tests/support/code_structure.py` reads the trees; the rules of
imported distributions are in `tests/test_dependencies.py`, those of docstrings in
`tests/test_documentation.py`, and those of words in `tests/test_words.py`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support import code_structure as code
from tests.support.code_structure import (
    PROJECT,
    closure,
    fail_if,
    folder_of,
    imports,
    imports_of,
    modules,
    read,
    sources,
    write_tree,
)

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "tasks": {"flows", "deployments", "prefect", "ray"},
    "deployments": {"flows", "prefect"},
    "flows": {"ray"},
}
DVC = yaml.safe_load(read(ROOT / "dvc.yaml"))
STAGES = sorted(DVC["stages"])
SLOW_STAGES = {"train", "package", "evaluate"}
PUBLIC_HOSTS = {"pypi.org", "files.pythonhosted.org", "download.pytorch.org"}

# From low to high: a module imports from its own folder and from those above it in this list.
LAYERS = [
    "tasks/core",
    "tasks/text",
    "tasks/tools",
    "tasks/prompt",
    "tasks/data",
    "tasks/model_package",
    "tasks/safety",
    "tasks/engine",
    "tasks/retrieval",
    "tasks/training",
    "tasks/evaluation",
    "tasks/gate",
    "tasks/registry",
    "tasks/monitoring",
    "tasks/rollout",
    "tasks/reports",
    "tasks/domains/*",  # below their loader, which reaches them all
    "tasks/domains",
    "tasks",  # the stages
    "deployments/core",
    "deployments/replicas",
    "deployments/app/openai",
    "deployments/app/access",
    "deployments/app/guardrails",
    "deployments/app/steps",
    "deployments/app/routing",
    "deployments/app/cache",
    "deployments/app",
    "deployments/serve",
    "deployments/stack",
    "deployments/redteam",
    "deployments/evaluation",
    "deployments",  # the launchers
    "flows/release_steps",
    "flows",
]
WIDEST_FOLDER = 20


def against_the_arrow(root: Path) -> list[str]:
    return [
        f"{path}:{line} imports {name}"
        for top, forbidden in FORBIDDEN.items()
        for path in sources(root, [top])
        for line, name in imports(read(root / path))
        if name.split(".")[0] in forbidden
    ]


def test_imports_follow_the_arrow() -> None:
    found = against_the_arrow(ROOT)
    fail_if(found, "flows/ -> deployments/ -> tasks/, prefect in flows/ only, ray in deployments/ only:")


def test_the_arrow_sees_lazy_imports(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "tasks/lazy.py": "import json\ndef f():\n    from ray import serve\n    return serve\n",
            "deployments/late.py": "import importlib\nimportlib.import_module('prefect.events')\n",
        },
    )
    assert against_the_arrow(tmp_path) == [
        "tasks/lazy.py:3 imports ray.serve",
        "deployments/late.py:2 imports prefect.events",
    ]


def upward_imports(root: Path) -> list[str]:
    """Imports of a folder that is higher in `LAYERS`, and folders that are not in it."""
    found = []
    for path in sources(root):
        here = code.layer(LAYERS, path)
        if here is None:
            if not path.endswith("__init__.py") or code.has_code(root / path):
                found.append(f"{path}: {folder_of(path)}/ has no place in LAYERS")
            continue
        for line, name in imports_of(root, path):
            files = [(code.layer(LAYERS, file), file) for file in code.project_files(root, name)]
            found += [f"{path}:{line} imports {file}" for rank, file in files if rank is not None and rank > here]
    return found


def test_imports_point_to_lower_layers() -> None:
    fail_if(upward_imports(ROOT), f"a module imports from its own layer and lower ones, in this order: {LAYERS}")


def test_an_upward_import_and_an_unlisted_folder_are_found(tmp_path: Path) -> None:
    lazy = "def f():\n    from tasks.registry.registry import Registry\n    return Registry\n"
    late = "from importlib import import_module\nimport_module('deployments.app.turn')\n"
    write_tree(
        tmp_path,
        {
            "tasks/gate/verdict.py": lazy,
            "tasks/registry/registry.py": "from tasks.gate import comparison\n",
            "tasks/gate/comparison.py": "",
            "deployments/app/routing/routing.py": late,
            "deployments/app/turn.py": "import deployments.app.routing.routing\n",
            "tasks/misc/one.py": "",
        },
    )
    assert upward_imports(tmp_path) == [
        "tasks/gate/verdict.py:2 imports tasks/registry/registry.py",
        "tasks/misc/one.py: tasks/misc/ has no place in LAYERS",
        "deployments/app/routing/routing.py:2 imports deployments/app/turn.py",
    ]


def import_cycles(root: Path) -> list[str]:
    """One cycle of modules and one of folders, if there are any."""
    graph = code.module_graph(root)
    cycles = [code.cycle(graph), code.cycle(code.folder_graph(graph))]
    return [" -> ".join(nodes) for nodes in cycles if nodes]


def test_neither_modules_nor_folders_import_in_a_circle() -> None:
    fail_if(import_cycles(ROOT), "imports run in a circle, lazy ones included:")


def test_cycles_of_modules_and_of_folders_are_found(tmp_path: Path) -> None:
    lazy = "def f():\n    import tasks.a.one\n    return tasks.a.one\n"
    write_tree(tmp_path, {"tasks/a/one.py": "from tasks.b import two\n", "tasks/b/two.py": lazy, "tasks/c/x.py": ""})
    modules_found, folders_found = import_cycles(tmp_path)
    assert set(modules_found.split(" -> ")) == {"tasks/a/one.py", "tasks/b/two.py"}
    assert set(folders_found.split(" -> ")) == {"tasks/a", "tasks/b"}
    write_tree(tmp_path, {"tasks/b/two.py": "", "tasks/b/other.py": lazy})
    assert import_cycles(tmp_path) == [folders_found], "no module imports itself, yet the folders do"


def around_the_loader(root: Path) -> list[str]:
    """Modules that import a domain by name, and computed imports; both are the domain loader's alone."""
    found = []
    for path in sources(root):
        for line, name in imports(read(root / path)):
            if name == code.COMPUTED and path != code.DOMAIN_LOADER:
                found.append(f"{path}:{line} imports a computed name, which no check can follow")
            domain = "/".join(name.split(".")[:3])
            if domain.startswith("tasks/domains/") and (root / domain).is_dir() and not path.startswith(f"{domain}/"):
                found.append(f"{path}:{line} imports {name}; domains are reached through {code.DOMAIN_LOADER}")
    return found


def test_a_domain_is_reached_through_its_loader() -> None:
    fail_if(around_the_loader(ROOT), "only the loader knows a domain's modules:")


def test_imports_around_the_loader_are_found_and_the_loader_imports_all_domains(tmp_path: Path) -> None:
    computed = "import importlib\ndef f(name):\n    return importlib.import_module(f'tasks.domains.{name}.tools')\n"
    write_tree(
        tmp_path,
        {
            "tasks/domains/loader.py": computed,
            "tasks/domains/nursery/tools.py": "from tasks.domains.nursery import entities\n",
            "tasks/domains/nursery/entities.py": "",
            "tasks/serve.py": "from tasks.domains.loader import f\n",
            "deployments/direct.py": "from tasks.domains.nursery.tools import shop\n",
            "flows/late.py": computed,
        },
    )
    assert around_the_loader(tmp_path) == [
        "deployments/direct.py:1 imports tasks.domains.nursery.tools.shop; "
        "domains are reached through tasks/domains/loader.py",
        "flows/late.py:3 imports a computed name, which no check can follow",
    ]
    assert closure(tmp_path, "tasks/serve.py") == {
        "tasks/serve.py",
        "tasks/domains/loader.py",
        "tasks/domains/nursery/tools.py",
        "tasks/domains/nursery/entities.py",
    }
    assert closure(tmp_path, "flows/late.py") == {"flows/late.py"}


def entry_points(root: Path) -> list[str]:
    """Where the top-level modules differ from what DVC and Prefect start."""
    stages = yaml.safe_load(read(root / "dvc.yaml"))["stages"]
    launched = {stage["cmd"].split()[-1].replace(".", "/") + ".py" for stage in stages.values()}
    deployed = yaml.safe_load(read(root / "deployments/prefect.yaml"))["deployments"]
    wanted = {
        "tasks": {f"tasks/{stage}.py" for stage in stages},
        "deployments": {path for path in launched if folder_of(path) == "deployments"},
        "flows": {"flows/cli.py", *("/".join(one["entrypoint"].split(".")[:2]) + ".py" for one in deployed)},
    }
    found = []
    for top in PROJECT:
        there = {path for path in modules(root, [top]) if folder_of(path) == top}
        found += [f"{path}: nothing starts it; move it into a folder" for path in sorted(there - wanted[top])]
        found += [f"{path}: it is started, and is not there" for path in sorted(wanted[top] - there)]
    return found


def test_top_level_modules_are_entry_points() -> None:
    found = entry_points(ROOT)
    fail_if(found, "tasks/*.py: dvc.yaml's stages; deployments/*.py: their launchers; flows/*.py: flows, and cli.py:")


def test_a_module_that_nothing_starts_is_found(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "dvc.yaml": "stages: {train: {cmd: python -m deployments.train}, base: {cmd: python -m tasks.base}}\n",
            "deployments/prefect.yaml": "deployments: [{entrypoint: flows.release.release}]\n",
            "tasks/train.py": "",
            "tasks/helpers.py": "",
            "tasks/core/files.py": "",
            "deployments/train.py": "",
            "flows/release.py": "",
            "flows/cli.py": "",
        },
    )
    assert entry_points(tmp_path) == [
        "tasks/helpers.py: nothing starts it; move it into a folder",
        "tasks/base.py: it is started, and is not there",
    ]


def crowding(root: Path) -> list[str]:
    """Folders that are too wide, and names that stand twice within one top folder."""
    widths = Counter(map(folder_of, modules(root)))
    found = [f"{folder}/: {width} modules" for folder, width in widths.items() if width > WIDEST_FOLDER]
    for top in PROJECT:
        names = defaultdict(list)
        for path in modules(root, [top]):
            names[f"module {path.rpartition('/')[2]}"].append(path)
            for node in code.public_classes(root, path):
                names[f"class {node.name}"].append(path)
        found += [f"{name}: in {' and '.join(paths)}" for name, paths in names.items() if len(paths) > 1]
    return found


def test_folders_are_narrow_and_names_stand_once() -> None:
    fail_if(crowding(ROOT), f"at most {WIDEST_FOLDER} modules a folder; a name means one thing in a top folder:")


def test_wide_folders_and_names_that_stand_twice_are_found(tmp_path: Path) -> None:
    twice = "class Row: ...\nclass _Private: ...\n"
    write_tree(tmp_path, {f"tasks/wide/module_{number}.py": "" for number in range(WIDEST_FOLDER + 1)})
    write_tree(tmp_path, {"tasks/a/rows.py": twice, "tasks/b/rows.py": twice, "flows/rows.py": twice})
    assert crowding(tmp_path) == [
        "tasks/wide/: 21 modules",
        "module rows.py: in tasks/a/rows.py and tasks/b/rows.py",
        "class Row: in tasks/a/rows.py and tasks/b/rows.py",
    ]


def untested_modules(root: Path) -> list[str]:
    """Modules without a test of their name that no test names; and names of modules that are not there."""
    tests = [path for path in modules(root, ["tests"]) if path.rpartition("/")[2].startswith("test_")]
    named = {
        (path, test)
        for test in tests
        for path in re.findall(rf"`((?:{'|'.join(PROJECT)})/[\w/]+\.py)`", code.docstring(root, test))
    }
    covered = {path for path, _ in named}
    alone = [path for path in modules(root) if path not in covered and mirror_of(path) not in tests]
    missing = [f"{path}: write {mirror_of(path)}" for path in alone]
    return missing + [f"{test}: there is no {path}" for path, test in sorted(named) if not (root / path).is_file()]


def mirror_of(path: str) -> str:
    """Where the test of a module lies."""
    folder, _, name = path.rpartition("/")
    return f"tests/{folder}/test_{name}"


def test_every_module_has_a_test_of_its_name_or_is_named_in_one() -> None:
    fail_if(untested_modules(ROOT), "or name the module in the docstring of the test that tests it (`tasks/...py`):")


def test_a_module_without_a_test_is_found(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "tasks/a.py": "",
            "tasks/b.py": "",
            "flows/steps/c.py": "",
            "flows/steps/__init__.py": "",
            "tests/tasks/test_b.py": '"""Also covers `flows/steps/c.py` and `flows/gone.py`."""\n',
        },
    )
    assert untested_modules(tmp_path) == [
        "tasks/a.py: write tests/tasks/test_a.py",
        "tests/tasks/test_b.py: there is no flows/gone.py",
    ]


def test_closure_follows_lazy_and_package_imports(tmp_path: Path) -> None:
    write_tree(
        tmp_path,
        {
            "tasks/__init__.py": "",
            "tasks/a.py": "import json\ndef f():\n    from tasks.engine import b\n    return b\n",
            "tasks/engine/__init__.py": '"""Only words."""\n',
            "tasks/engine/b.py": "from tasks.c import value\n",
            "tasks/c.py": "value = 1\n",
            "tasks/unused.py": "",
        },
    )
    assert closure(tmp_path, "tasks/a.py") == {"tasks/a.py", "tasks/engine/b.py", "tasks/c.py"}
    (tmp_path / "tasks/engine/__init__.py").write_text("from tasks.unused import x\n")
    assert closure(tmp_path, "tasks/a.py") >= {"tasks/engine/__init__.py", "tasks/unused.py"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_module_a_section_and_a_test(stage: str) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    assert (ROOT / f"tasks/{stage}.py").is_file(), f"stage {stage}: write tasks/{stage}.py"
    assert stage in params, f"stage {stage}: give it a section of that name in params.yaml"
    assert (ROOT / f"tests/tasks/test_{stage}.py").is_file(), f"stage {stage}: write tests/tasks/test_{stage}.py"
    wanted = f"python -m {launcher(ROOT, stage)}"
    assert DVC["stages"][stage]["cmd"] == wanted, f"stage {stage}: its cmd must be `{wanted}`"


def launcher(root: Path, stage: str) -> str:
    """The module that runs a stage: the stage's own, or that of the same name in deployments/, which places it."""
    folder = "deployments" if (root / f"deployments/{stage}.py").is_file() else "tasks"
    return f"{folder}.{stage}"


def stale_dependencies(root: Path, stage: str) -> list[str]:
    """Lines to add to a stage's deps or to remove, so that they are the code that its launcher imports.

    A stage that takes minutes lists files, so that no other edit makes it stale; a quick one lists folders.
    """
    listed = yaml.safe_load(read(root / "dvc.yaml"))["stages"][stage].get("deps", [])
    found = {
        dep for one in listed if (dep := one if isinstance(one, str) else next(iter(one))).split("/")[0] in PROJECT
    }
    imported = closure(root, launcher(root, stage).replace(".", "/") + ".py")
    wanted = imported if stage in SLOW_STAGES else {code_folder(path) for path in imported}
    return [f"add:    - {path}" for path in sorted(wanted - found)] + [
        f"remove: - {path}" for path in sorted(found - wanted)
    ]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_it_imports(stage: str) -> None:
    fail_if(stale_dependencies(ROOT, stage), f"dvc.yaml, stages.{stage}.deps")


def test_missing_needless_and_wide_dependencies_are_found(tmp_path: Path) -> None:
    loads = "from tasks.domains import loader\n"
    write_tree(
        tmp_path,
        {
            "dvc.yaml": "stages:\n  train: {deps: [data/raw, tasks/train.py, tasks/core, tasks/text/pii.py]}\n"
            "  index: {deps: [tasks/index.py, tasks/domains, {tasks/text: null}]}\n",
            "tasks/train.py": f"import tasks.core.files\n{loads}",
            "tasks/index.py": f"import tasks.core.files\n{loads}",
            "tasks/core/files.py": "",
            "tasks/core/errors.py": "",
            "tasks/domains/loader.py": "from importlib import import_module\nimport_module(input())\n",
            "tasks/domains/nursery/tools.py": "",
        },
    )
    assert stale_dependencies(tmp_path, "index") == ["add:    - tasks/core", "remove: - tasks/text"]
    assert stale_dependencies(tmp_path, "train") == [
        "add:    - tasks/core/files.py",
        "add:    - tasks/domains/loader.py",
        "add:    - tasks/domains/nursery/tools.py",
        "remove: - tasks/core",
        "remove: - tasks/text/pii.py",
    ]


def test_an_edit_of_code_that_training_does_not_import_leaves_it_fresh() -> None:
    deps = [dep for dep in DVC["stages"]["train"]["deps"] if dep.split("/")[0] in PROJECT]
    assert deps == [dep for dep in deps if dep.endswith(".py")], "a folder of code would retrain on any edit in it"
    assert "tasks/engine/vllm.py" not in deps, "an engine serves what was trained, and trains nothing"


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
    """Hosts and folders that this machine's pip takes packages from, without the public ones."""
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
