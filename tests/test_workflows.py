"""GitHub's workflows and forms, the hooks of pre-commit, and the make targets that they and the guides name.

Nothing here needs a network: the schemas are those that come with check-jsonschema.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.code_structure import fail_if, read, write_tree

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
ACTIONS = sorted((ROOT / ".github/actions").glob("*/action.yml"))
SCHEMAS = {
    "vendor.github-workflows": ".github/workflows/*.yml",
    "custom.github-workflows-require-timeout": ".github/workflows/*.yml",
    "vendor.github-actions": ".github/actions/*/action.yml",
    "vendor.github-issue-forms": ".github/ISSUE_TEMPLATE/*_*.yml",
    "vendor.github-issue-config": ".github/ISSUE_TEMPLATE/config.yml",
    "vendor.dependabot": ".github/dependabot.yml",
}
GUIDES = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "AGENTS.md",
    "CHANGELOG.md",
    ".github/pull_request_template.md",
]
PYTHONS = ["3.11", "3.12", "3.13"]
Tree = dict[str, Any]


def load(path: Path) -> Tree:
    """A YAML file; the key `on` stays a string, which YAML 1.1 reads as true."""
    content = yaml.safe_load(read(path))
    return {"on" if key is True else key: value for key, value in content.items()}


def run_module(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_fit_githubs_schemas(schema: str) -> None:
    files = [str(path) for path in sorted(ROOT.glob(SCHEMAS[schema]))]
    assert files, f"nothing is called {SCHEMAS[schema]}"
    result = run_module("check_jsonschema", "--builtin-schema", schema, *files)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_schema_finds_a_wrong_workflow(tmp_path: Path) -> None:
    text = read(WORKFLOWS[0]).replace("runs-on:", "run-on:")
    write_tree(tmp_path, {"wrong.yml": text})
    result = run_module("check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(tmp_path / "wrong.yml"))
    assert result.returncode == 1
    assert "run-on" in result.stdout


def steps_of(content: Tree) -> Iterator[Tree]:
    """The steps of a workflow or of a composite action."""
    jobs = content["jobs"].values() if "jobs" in content else [content["runs"]]
    for job in jobs:
        yield from job["steps"]


def unsafe_parts(content: Tree) -> list[str]:
    """Parts of a workflow or action by which foreign text, a token or another version of an action gets in."""
    found = []
    for step in steps_of(content):
        uses, command = step.get("uses", ""), step.get("run", "")
        if "${{" in command:
            found.append(f"an expression in a command, which a shell runs: {command}")
        if uses and not re.fullmatch(r"\./\.github/actions/\w+|actions/[\w/-]+@v\d+", uses):
            found.append(f"neither an action of GitHub with its major version, nor one of this repository: {uses}")
        if uses.startswith("actions/checkout@") and step.get("with", {}).get("persist-credentials") is not False:
            found.append("a checkout that keeps its token: persist-credentials: false")
    if "jobs" not in content:
        return found
    if content.get("permissions") != {"contents": "read"}:
        found.append(f"permissions other than contents: read: {content.get('permissions')}")
    found += [f"job {name}: permissions of its own" for name, job in content["jobs"].items() if "permissions" in job]
    if "pull_request_target" in content["on"]:
        found.append("pull_request_target runs a stranger's change with this repository's token")
    return found + ([] if "concurrency" in content else ["no concurrency group"])


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_workflows_hold_no_more_than_they_need(path: Path) -> None:
    fail_if(unsafe_parts(load(path)), f"{path.relative_to(ROOT)}:")


def test_unsafe_parts_of_a_workflow_are_found() -> None:
    steps = [
        {"uses": "actions/checkout@v7"},
        {"uses": "someone/action@main"},
        {"uses": "actions/cache@v6"},
        {"run": "echo ${{ github.event.issue.title }}"},
    ]
    jobs = {"one": {"permissions": {"contents": "write"}, "steps": steps}}
    found = unsafe_parts({"on": {"pull_request_target": None}, "permissions": "write-all", "jobs": jobs})
    assert [line.split(":")[0] for line in found] == [
        "a checkout that keeps its token",
        "neither an action of GitHub with its major version, nor one of this repository",
        "an expression in a command, which a shell runs",
        "permissions other than contents",
        "job one",
        "pull_request_target runs a stranger's change with this repository's token",
        "no concurrency group",
    ]


def test_every_workflow_runs_the_supported_pythons() -> None:
    needs = re.search(r'requires-python = ">=(\d+\.\d+),<(\d+\.\d+)"', read(ROOT / "pyproject.toml"))
    assert needs, "pyproject.toml names the Pythons as >=A,<B"
    assert [PYTHONS[0], f"3.{int(PYTHONS[-1].split('.')[1]) + 1}"] == list(needs.groups())
    for name, job in (("ci", "fast"), ("nightly", "suite")):
        content = load(ROOT / f".github/workflows/{name}.yml")
        assert content["jobs"][job]["strategy"]["matrix"]["python"] == PYTHONS
    for content in map(load, WORKFLOWS):
        versions = {step["with"]["python"] for step in steps_of(content) if step.get("uses", "").startswith("./")}
        assert versions <= {"${{ matrix.python }}", *PYTHONS}


@pytest.mark.parametrize("path", [*WORKFLOWS, *ACTIONS], ids=lambda path: path.name)
def test_make_gets_the_python_of_the_job(path: Path) -> None:
    """Without it make takes the first supported Python that it finds on the machine."""
    commands = [step["run"] for step in steps_of(load(path)) if "run" in step]
    assert commands
    assert [command for command in commands if not command.endswith(" PYTHON=python")] == []


def missing_targets(root: Path, paths: list[str]) -> list[str]:
    """`make X` in the files, without a target X in the Makefile; in Markdown only code counts, in YAML no comment."""
    targets = set(re.findall(r"^([\w-]+):(?!=)", read(root / "Makefile"), re.MULTILINE))
    found = []
    for path in paths:
        text = read(root / path)
        if path.endswith(".md"):
            code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text, re.DOTALL))
        else:
            code = re.sub(r"(?m)^\s*#.*", "", text)
        named = re.findall(r"(?:^|[`\s;&(])make ([a-z][\w-]*)", code)
        found += [f"{path}: make {name}" for name in sorted(set(named) - targets)]
    return found


def test_every_make_target_that_is_named_exists() -> None:
    others = [str(path.relative_to(ROOT)) for path in [*WORKFLOWS, *ACTIONS]]
    found = missing_targets(ROOT, [*GUIDES, *others, ".pre-commit-config.yaml"])
    fail_if(found, "the Makefile has no such target:")


def test_a_missing_make_target_is_found(tmp_path: Path) -> None:
    files = {
        "Makefile": "BIN := x\nIF := y\ntest: lint\n\tmake all\nlint:\n",
        "a.yml": "# They make something.\nrun: make test\nentry: make polish\n",
        "a.md": "We make do with `make lint`, `make BIN=x`, `make docs`.\n```\nmake bread   # a comment\n```\n",
    }
    found = missing_targets(write_tree(tmp_path, files), ["a.yml", "a.md"])
    assert found == ["a.yml: make polish", "a.md: make bread", "a.md: make docs"]


def test_hooks_are_local_make_targets() -> None:
    result = run_module("pre_commit", "validate-config")
    assert result.returncode == 0, result.stdout + result.stderr
    repositories = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert [one["repo"] for one in repositories] == ["local"]
    hooks = repositories[0]["hooks"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert [hook["entry"] for hook in hooks] == ["make format", "make lint"]
