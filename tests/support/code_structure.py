"""Read the structure of a source tree: its modules, their imports, cycles among these, and docstrings.

Every function takes the root of a tree, so that a check can be tried on a small one.
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatch
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib.metadata import packages_distributions
from pathlib import Path

PROJECT = ("tasks", "deployments", "flows")
OWN_NAMES = {*PROJECT, "benchmarks", "docs", "install", "tests"}
DOMAIN_LOADER = "tasks/domains/loader.py"
COMPUTED = "<computed>"
"""Stands for an imported name that cannot be read from the source."""


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def sources(root: Path, tops: Iterable[str] = PROJECT) -> list[str]:
    """Every Python file below the folders `tops`, relative to `root`."""
    return [path.relative_to(root).as_posix() for top in tops for path in sorted((root / top).rglob("*.py"))]


def modules(root: Path, tops: Iterable[str] = PROJECT) -> list[str]:
    """As `sources`, without the packages' `__init__.py`."""
    return [path for path in sources(root, tops) if not path.endswith("__init__.py")]


def folder_of(path: str) -> str:
    return path.rpartition("/")[0]


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports, at any depth: `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "this repository imports by full names"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"importlib.import_module", "import_module"}:
            named = node.args[0] if node.args else None
            literal = isinstance(named, ast.Constant) and isinstance(named.value, str)
            yield node.lineno, ast.literal_eval(named) if named is not None and literal else COMPUTED


def imports_of(root: Path, path: str) -> list[tuple[int, str]]:
    """As `imports`; the computed name in the domain loader stands for every module of every domain."""
    found = list(imports(read(root / path)))
    if path != DOMAIN_LOADER:
        return found
    below = [file for file in modules(root, ["tasks/domains"]) if folder_of(file) != folder_of(DOMAIN_LOADER)]
    domains = [file.removesuffix(".py").replace("/", ".") for file in below]
    return [(line, each) for line, name in found for each in (domains if name == COMPUTED else [name])]


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
    body = ast.parse(read(path)).body
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in body)


def closure(root: Path, start: str) -> set[str]:
    """The project files that `start` imports, directly or not, with itself."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for _, name in imports_of(root, path) for file in project_files(root, name)]
    return found


def module_graph(root: Path) -> dict[str, set[str]]:
    """Each file of the project, and the other files of the project that it imports itself."""
    return {
        path: {file for _, name in imports_of(root, path) for file in project_files(root, name)} - {path}
        for path in sources(root)
    }


def folder_graph(graph: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """The imports of `module_graph`, between folders."""
    folders: dict[str, set[str]] = {}
    for path, imported in graph.items():
        folders.setdefault(folder_of(path), set()).update(map(folder_of, imported))
    return {folder: others - {folder} for folder, others in folders.items()}


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """The nodes of one cycle, each before one that it imports, the first again at the end; empty if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def layer(layers: Iterable[str], path: str) -> int | None:
    """The rank of a module's folder in a list from low to high, whose entries may hold `*`; None if it is not there."""
    ranks = (rank for rank, pattern in enumerate(layers) if fnmatch(folder_of(path), pattern))
    return next(ranks, None)


def outside_imports(root: Path, tops: Iterable[str]) -> Iterator[tuple[str, int, str]]:
    """Path, line and dotted name of each import that is neither the standard library's nor the project's."""
    for path in sources(root, tops):
        for line, name in imports(read(root / path)):
            top = name.split(".")[0]
            if top not in sys.stdlib_module_names and top not in OWN_NAMES and name != COMPUTED:
                yield path, line, name


def private_root(name: str) -> str | None:
    """The part of a dotted name up to its private module or name; None if it has none."""
    if name.startswith("evidently.legacy"):
        return "evidently.legacy"  # deprecated by its authors, though its name does not show it
    parts = name.split(".")
    private = (at for at, part in enumerate(parts, 1) if part.startswith("_") and not part.startswith("__"))
    end = next(private, None)
    return ".".join(parts[:end]) if end else None


def declared(root: Path, extras: Iterable[str]) -> set[str]:
    """The distributions that pyproject.toml names as dependencies or in `extras`, by their normalized names."""
    project = tomllib.loads(read(root / "pyproject.toml"))["project"]
    optional = project.get("optional-dependencies", {})
    lines = [*project.get("dependencies", []), *(line for extra in extras for line in optional.get(extra, []))]
    return {normalized(re.split(r"[^\w.-]", line, maxsplit=1)[0]) for line in lines}


def normalized(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


@cache
def distributions() -> dict[str, set[str]]:
    """The installed distributions that hold each top-level module."""
    return {module: set(map(normalized, names)) for module, names in packages_distributions().items()}


def docstring(root: Path, path: str) -> str:
    return ast.get_docstring(ast.parse(read(root / path))) or ""


def public_classes(root: Path, path: str) -> list[ast.ClassDef]:
    body = ast.parse(read(root / path)).body
    return [node for node in body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def record_classes(root: Path, path: str) -> list[ast.ClassDef]:
    """The public classes of a module that are `Record` or `Section`, directly or through each other."""
    kinds = {"Record", "Section"}
    found = []
    for node in public_classes(root, path):
        if kinds & {ast.unparse(base).split(".")[-1] for base in node.bases}:
            kinds.add(node.name)
            found.append(node)
    return found


def undescribed_fields(node: ast.ClassDef) -> list[str]:
    """The fields of a class with neither a string below them nor an entry in the docstring's `Attributes:`."""
    listed = section_entries(ast.get_docstring(node) or "", "Attributes")
    missing = []
    for field, below in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not isinstance(field.target, ast.Name):
            continue
        described = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant)
        name = field.target.id
        if not (name.startswith("_") or described or name in listed):
            missing.append(name)
    return missing


def section_entries(text: str, section: str) -> set[str]:
    """The names that a docstring's section describes: lines that begin `name:`, `name (type):` or `name, other:`."""
    match = re.search(rf"^{section}:\n((?:[ \t]+.*\n?|\n)+)", text, re.MULTILINE)
    entries = re.findall(r"^\s+([\w*, ]+?)(?: \([^)]*\))?:", match[1], re.MULTILINE) if match else []
    return {name.strip(" *") for entry in entries for name in entry.split(",")}


def documented_functions(root: Path, path: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The public functions of a module and the public methods of its public classes.

    Left out are commands, whose docstring is the text of `--help`, and methods without a docstring in a
    class that extends another: what they override describes them.
    """
    module = ast.parse(read(root / path))
    yield from (node for node in _functions(module) if "command(" not in "".join(map(ast.unparse, node.decorator_list)))
    for holder in public_classes(root, path):
        overrides = bool(holder.bases) and "Protocol" not in map(ast.unparse, holder.bases)
        yield from (node for node in _functions(holder) if ast.get_docstring(node) or not overrides)


def _functions(holder: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in holder.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """The names of a function's parameters, `self` and `cls` left out."""
    spec = node.args
    names = [*spec.posonlyargs, *spec.args, spec.vararg, *spec.kwonlyargs, spec.kwarg]
    return [one.arg for one in names if one is not None and one.arg not in {"self", "cls"}]


def glossary(root: Path) -> set[str]:
    """The terms of `docs/reference/glossary.md`: bold at a line's beginning, a heading, or a table's first column."""
    path = root / "docs/reference/glossary.md"
    lines = read(path).splitlines() if path.is_file() else []
    term = re.compile(r"^(?:[-*] )?\*\*(.+?)\*\*|^#{2,} (.+)$|^\| *(?:\*\*)?([^|*]+?)(?:\*\*)? *\|")
    found = (next(filter(None, match.groups())) for match in map(term.match, lines) if match)
    return {plain(re.sub(r"\(.*?\)", "", name)) for name in found if re.search(r"\w", name)}


def plain(text: str) -> str:
    """Words as a search would compare them: lower case, one space between, without a plural's s."""
    return " ".join(re.sub(r"(?<=[a-z]{2}[^s])s$", "", word) for word in re.findall(r"[a-z0-9]+", text.lower()))


def write_tree(root: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
    return root


def fail_if(found: list[str], rule: str) -> None:
    assert not found, "\n".join([rule, *found])
