"""Rules of the house: who may import whom, how large a file or folder may be, and that the README is true.

The files are read as text and syntax trees; nothing of the project is imported but what `__all__` promises.
Exceptions stand by name in pyproject.toml, [tool.house].
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PACKAGES = ("scaling", "sweeps", "analysis")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
HOUSE = PROJECT["tool"]["house"]
MAX_FILE, MAX_NESTING, MAX_ROOM = 500, 3, 16

# Who may not import what, and the only modules that may.
FORBIDDEN = {
    "scaling": {"analysis", "sweeps", "ray", "mlflow", "optuna"},
    "analysis": {"scaling", "sweeps", "ray", "optuna", "torch"},
}
ONLY_IN = {
    "ray": ("sweeps/pools/ray",),
    "mlflow": ("sweeps/", "analysis/table/runs.py"),
    "optuna": ("sweeps/",),
}


@cache
def committed() -> tuple[Path, ...]:
    """Every file of the checkout that git knows or would take, relative to the root."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return tuple(Path(line) for line in sorted(set(listed.splitlines())) if (ROOT / line).is_file())


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"), filename=str(path))


def python_files(*folders: str) -> list[Path]:
    return [
        path for path in committed() if path.suffix == ".py" and (not folders or path.parts[0] in folders)
    ]


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that a file imports, inside functions too."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}:{node.lineno} imports relatively; write the full name"
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            yield from ((node.lineno, str(a.value)) for a in node.args if isinstance(a, ast.Constant))


def runtime_imports() -> dict[str, set[str]]:
    """Module of the product -> those that it imports, inside functions too; not those only types need."""
    modules = {module_name(path): path for path in python_files(*PACKAGES)}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        for_types = {
            id(inner)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
            for inner in ast.walk(node)
        }
        imported: set[str] = set()
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Import) and id(node) not in for_types:
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and id(node) not in for_types:
                full = {f"{node.module}.{alias.name}" for alias in node.names}
                imported |= {name if name in modules else str(node.module) for name in full}
        graph[name] = (imported & modules.keys()) - {name}
    return graph


def check_no_circle(graph: Mapping[str, set[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def test_no_modules_import_each_other_in_a_circle() -> None:
    check_no_circle(runtime_imports())
    with pytest.raises(pytest.fail.Exception, match="a imports b imports a"):
        check_no_circle({"a": {"b"}, "b": {"a"}, "c": {"a"}})


@pytest.mark.parametrize("package", ["sweeps", "analysis"])
def test_no_rooms_import_each_other_in_a_circle(package: str) -> None:
    """A room is a folder directly below the package; a module there is one of its own."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for name, imported in runtime_imports().items():
        room = ".".join(name.split(".")[:2])
        if room.startswith(f"{package}."):
            rooms[room] |= {".".join(other.split(".")[:2]) for other in imported} - {room}
    check_no_circle(rooms)


def test_the_three_packages_keep_their_walls() -> None:
    broken = [
        f"{path}:{line} imports {name}"
        for path in python_files(*PACKAGES)
        for line, name in imports(path)
        if name.split(".")[0] in FORBIDDEN.get(path.parts[0], ())
    ]
    assert not broken, broken


@pytest.mark.parametrize("package", ONLY_IN)
def test_a_package_is_imported_only_where_it_belongs(package: str) -> None:
    places = {
        str(path)
        for path in python_files(*PACKAGES)
        for _, name in imports(path)
        if name.split(".")[0] == package
    }
    assert not [place for place in places if not place.startswith(ONLY_IN[package])]


def test_every_imported_package_is_declared_and_every_declared_one_is_imported() -> None:
    distributions = packages_distributions()
    imported = {name.split(".")[0] for path in python_files(*PACKAGES) for _, name in imports(path)}
    outside = imported - sys.stdlib_module_names - set(PACKAGES)
    # A package may come from several distributions, as google or mlflow do; one of them has to be declared.
    sources = [set(map(canonical, distributions.get(name, [name]))) for name in outside]
    needed = set(map(requirement_name, PROJECT["project"]["dependencies"]))
    extras = PROJECT["project"]["optional-dependencies"].values()
    optional = {requirement_name(text) for extra in extras for text in extra}
    undeclared = [names for names in sources if not names & (needed | optional)]
    assert not undeclared, "imported but not declared in pyproject.toml"
    assert needed <= set().union(*sources), "declared in pyproject.toml but imported nowhere"


def test_constraints_pin_everything_that_is_asked_for() -> None:
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and line[0] != "#"
    )
    requirements = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    requirements += [text for extra in PROJECT["project"]["optional-dependencies"].values() for text in extra]
    for text in requirements:
        name, at_least = requirement_name(text), text.partition(">=")[2]
        if name != PROJECT["project"]["name"]:
            assert name in pins, f"{text} has no line in constraints.txt"
            assert version(pins[name]) >= version(at_least), f"{text}, but constraints.txt has {pins[name]}"


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement_name(text: str) -> str:
    return canonical(re.split(r"[\[>=<~! ]", text)[0])


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def test_packages_ship_their_types() -> None:
    shipped = PROJECT["tool"]["setuptools"]["package-data"]
    for package in PACKAGES:
        assert (ROOT / package / "py.typed").exists()
        assert "py.typed" in shipped[package]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == PROJECT["project"]["version"]
    assert citation["license"] == PROJECT["project"]["license"]
    assert {"cff-version", "title", "message", "authors"} <= set(citation)


def test_no_file_is_too_long() -> None:
    lengths = {str(path): (ROOT / path).read_text().count("\n") for path in python_files()}
    assert {path for path, lines in lengths.items() if lines > MAX_FILE} == set(HOUSE["long_files"])


def functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        name = prefix
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{prefix}.{child.name}"
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield name, child
        yield from functions(child, name)


def nesting(node: ast.AST) -> int:
    """Levels of loops and conditions; elif, with and try add none, inner functions start anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        deeper = isinstance(child, ast.If | ast.For | ast.AsyncFor | ast.While | ast.Match)
        is_elif = isinstance(child, ast.If) and isinstance(node, ast.If) and child in node.orelse
        deepest = max(deepest, nesting(child) + (deeper and not is_elif))
    return deepest


@cache
def every_function() -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    return {name: node for path in python_files() for name, node in functions(tree(path), module_name(path))}


def test_no_function_is_nested_too_deeply() -> None:
    too_deep = {name for name, node in every_function().items() if nesting(node) > MAX_NESTING}
    assert too_deep == set(HOUSE["deep_functions"])


VERBS = {
    "told",
    "asked",
    "found",
    "known",
    "seen",
    "said",
    "wanted",
    "given",
    "wished",
    "shown",
    "ask",
    "tell",
}


def test_values_have_nouns_as_names() -> None:
    places = []
    for path in python_files():
        for node in ast.walk(tree(path)):
            stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
            name = node.id if stored else node.arg if isinstance(node, ast.arg) else ""
            places += [f"{path}:{node.lineno} {name}"] if name in VERBS else []
    for path in committed():
        if path.suffix == ".js":
            text = (ROOT / path).read_text(encoding="utf-8")
            names = re.findall(r"\b(?:const|let|var) (\w+)(?! = (?:async )?(?:\([^)]*\)|\w+) =>)", text)
            places += [f"{path} {name}" for name in names if name in VERBS]
    assert not places


def test_only_the_families_know_their_names() -> None:
    """Adding a family touches no other file, so no other file may ask which family it has."""
    table = next(
        node.value
        for node in ast.walk(tree(Path("scaling/families/__init__.py")))
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "FAMILIES"
    )
    assert isinstance(table, ast.Dict)
    families = {key.value for key in table.keys if isinstance(key, ast.Constant)}
    assert "masked" in families
    comparisons = [
        f"{path}:{node.lineno}"
        for path in python_files(*PACKAGES)
        if path.parts[:2] != ("scaling", "families")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Compare | ast.MatchValue)
        for constant in ast.walk(node)
        if isinstance(constant, ast.Constant) and constant.value in families
    ]
    assert not comparisons, f"a family name is compared outside scaling/families: {comparisons}"


def exporting_modules() -> list[str]:
    return [
        module_name(path)
        for path in python_files(*PACKAGES)
        if any(
            isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
            for node in tree(path).body
        )
    ]


@pytest.mark.parametrize("name", exporting_modules())
def test_public_names_exist_and_say_what_they_are(name: str) -> None:
    module = import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    for public in module.__all__:
        value = getattr(module, public)
        if callable(value):
            assert value.__doc__, f"{name}.{public} has no docstring"
            # What a dataclass writes when nobody did.
            assert not value.__doc__.startswith(f"{public}("), f"{name}.{public} has no docstring"


def test_every_module_opens_with_what_it_is() -> None:
    silent = [
        str(path)
        for path in python_files(*PACKAGES, "scripts", "benchmarks")
        if not ast.get_docstring(tree(path))
    ]
    assert not silent


def is_check_true(node: ast.AST) -> bool:
    """The check=True of a subprocess."""
    return isinstance(node, ast.keyword) and node.arg == "check" and ast.unparse(node.value) == "True"


def test_every_test_checks_something() -> None:
    """An assert, pytest.raises or warns, or a helper whose name says that it checks."""
    checks = re.compile(r"(^|[._])(assert|raises|warns|fail|check|expect)")
    idle = []
    for path in python_files("tests"):
        for name, node in functions(tree(path), module_name(path)):
            inner = list(ast.walk(node))
            calls = [ast.unparse(call.func) for call in inner if isinstance(call, ast.Call)]
            checked = any(isinstance(part, ast.Assert) or is_check_true(part) for part in inner)
            checked = checked or any(map(checks.search, calls))
            if node.name.startswith("test_") and not checked:
                idle.append(name)
    assert not idle


# Written so that this file does not hold what it looks for.
NOT_HERE = {
    "a note to do something later": re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X)\b"),
    "a part that is not there": re.compile("NotImplemented" + "Error"),
    "a package registry": re.compile(
        r"index-" + r"url|find-" + r"links|trusted-" + r"host|https?://\S*/simple\b"
    ),
    "a path of one machine": re.compile(
        r"(?<![\w.>/])/(home|Users|root|work|opt)/\w|" + re.escape(str(ROOT)) + r"\b"
    ),
    "a build of torch for one kind of machine": re.compile(r"==[\d.]+\+" + r"cpu"),
}


@pytest.mark.parametrize("what", NOT_HERE)
def test_committed_text_holds_no(what: str) -> None:
    places = []
    for path in committed():
        try:
            lines = (ROOT / path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        places += [f"{path}:{number}" for number, line in enumerate(lines, 1) if NOT_HERE[what].search(line)]
    assert not places


def readme_section(title: str) -> str:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    match = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, flags=re.M | re.S)
    assert match, f"README.md has no section {title!r}"
    return match[1]


def test_the_list_of_files_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, "scripts/house.py", "--check"], cwd=ROOT, capture_output=True)
    assert not done.returncode, "docs/house.md is out of date; run: python scripts/house.py"


def test_no_folder_holds_too_many_modules() -> None:
    rooms = Counter(str(path.parent) for path in python_files(*PACKAGES) if path.name != "__init__.py")
    crowded = {room: count for room, count in rooms.items() if count > MAX_ROOM}
    assert not crowded


def test_readme_points_at_functions_that_are_there() -> None:
    entries = re.findall(r"^\d+\. `([\w/]+\.py)`, `([\w.]+)`", readme_section("Read these first"), flags=re.M)
    assert 3 <= len(entries) <= 5
    for file, function in entries:
        names = {name for name, _ in functions(tree(Path(file)), "")}
        names |= {f".{node.name}" for node in tree(Path(file)).body if isinstance(node, ast.ClassDef)}
        assert f".{function}" in names, f"{file} has no {function}"


def test_readme_names_only_targets_and_files_that_are_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    assert set(re.findall(r"(?:`|^ {4})make ([a-z-]+)", text, flags=re.M)) <= targets
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert "://" in link or (ROOT / link).exists(), f"README.md links to {link}, which is not there"


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_make_lists_its_targets_on_one_screen() -> None:
    text = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    for target in (
        "setup",
        "sweep",
        "plan",
        "fit",
        "compare",
        "dashboard",
        "notebook",
        "test",
        "test-all",
        "bench",
        "lint",
        "clean",
    ):
        assert re.search(rf"^  {target} +\S", text, flags=re.M), f"make help does not explain {target}"
