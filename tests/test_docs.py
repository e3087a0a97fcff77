"""The documentation is true: links resolve, what it names exists, and snippets print what it shows."""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from scaling.families import FAMILIES, family_class
from tests.sweeps.command_line import scaling
from tests.test_house import committed

ROOT = Path(__file__).parents[1]
PAGES = [
    path
    for path in committed()
    if path.suffix == ".md" and (len(path.parts) == 1 or path.parts[0] in ("docs", ".github"))
]
WRITTEN_BY_RUNS = ("runs/", "build/", "my/", "books/", "~", "/", "$")


@cache
def text_of(path: Path) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def fenced(path: Path) -> list[tuple[str, str, bool]]:
    """Blocks between ``` as language, text, and whether the line before says that the block is not run."""
    matches = re.finditer(
        r"^(?P<before>[^\n]*)\n```(?P<kind>\w*)\n(?P<code>.*?)^```$", text_of(path), re.M | re.S
    )
    return [(block["kind"], block["code"], "not run:" in block["before"]) for block in matches]


def prose(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", text_of(path), flags=re.M | re.S)


def anchors(path: Path) -> set[str]:
    """Names that headings get, on forges and on the site alike."""
    titles = re.findall(r"^#+ (.*)$", prose(path), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        file = (ROOT / page.parent / target).resolve() if target else ROOT / page
        if not file.exists() or (anchor and anchor not in anchors(file.relative_to(ROOT))):
            broken.append(link)
    assert not broken


def test_every_page_can_be_reached_from_the_contents() -> None:
    reached, waiting = set(), [Path("README.md"), Path("docs/README.md")]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)#\s]+\.md)", prose(page))
        files = [(ROOT / page.parent / link).resolve() for link in links if "://" not in link]
        waiting += [file.relative_to(ROOT) for file in files if file.is_relative_to(ROOT)]
    assert {page for page in PAGES if page.parts[0] == "docs"} <= reached


def test_every_picture_is_shown_somewhere() -> None:
    pictures = {path for path in committed() if path.parts[:2] == ("docs", "pictures")}
    linked = {
        (ROOT / page.parent / link).resolve().relative_to(ROOT)
        for page in PAGES
        for link in re.findall(r"!\[[^\]]*\]\(([^)\s]+)\)", text_of(page))
    }
    assert pictures == linked


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_named_files_and_folders_exist(page: Path) -> None:
    named = re.findall(r"`([\w.][\w./-]*)`", text_of(page))
    files = [
        name
        for name in named
        if re.search(r"/", name) and re.search(r"\.(py|ya?ml|md|ipynb|sh|js|csv|html)$|/$", name)
    ]
    missing = [
        name
        for name in files
        if not name.startswith(WRITTEN_BY_RUNS)
        and "NAME" not in name
        and not any((folder / name).exists() for folder in (ROOT, ROOT / page.parent))
    ]
    assert not missing


def test_files_named_in_code_and_comments_exist() -> None:
    """In docstrings, comments and settings; examples name the file that a reader would write."""
    named = re.compile(
        r"(?<![\w/])((?:docs|tests|scripts|deploy|benchmarks|examples|scaling|sweeps|analysis)/[\w./-]*"
        r"\w\.(?:py|md|yaml|sh|html|json|csv|ipynb|css))\b"
    )
    missing = [
        f"{path} names {name}"
        for path in committed()
        if path.suffix in (".py", ".yaml", ".yml", ".toml", ".sh", ".js") or path.name == "Makefile"
        if path.parts[0] != "examples"
        for name in named.findall(text_of(path))
        if not (ROOT / name).exists()
    ]
    assert not missing


def test_every_sampler_of_a_family_is_listed() -> None:
    section = text_of(Path("docs/families.md")).split("## Samplers\n")[1].split("\n## ")[0]
    rows = [set(re.findall(r"`(\w+)`", line)) for line in section.splitlines() if line.startswith("|")]
    missing = [
        (family, sampler)
        for family in FAMILIES
        for sampler in family_class(family).samplers
        if not any({family, sampler} <= row for row in rows)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_named_modules_and_functions_exist(page: Path) -> None:
    """`scaling.families`, `analysis.fit_law(...)`, python -m benchmarks.gaps."""
    text = text_of(page)
    names = re.findall(r"`((?:scaling|sweeps|analysis|benchmarks|examples)(?:\.\w+)+)", text)
    names += re.findall(r"python -m ((?:scaling|sweeps|analysis|benchmarks|examples)[\w.]*)", text)
    names += re.findall(r"^::: ([\w.]+)$", text, flags=re.M)
    missing = [name for name in names if not exists(name.rstrip("."))]
    assert not missing


def exists(name: str) -> bool:
    parts = name.split(".")
    if parts[-1] in ("yaml", "py", "db"):
        return True  # a file, which the test above looks for
    for cut in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[cut:]:
            if not hasattr(value, attribute):
                return False
            value = getattr(value, attribute)
        return True
    return False


def shell_lines(page: Path) -> Iterator[str]:
    """Lines of indented and of shell blocks, and pieces of code in the text, each one command."""
    text = text_of(page).replace("\\\n", " ")
    yield from (line.strip() for line in re.findall(r"^ {4,}(.*)$", text, flags=re.M))
    for kind, code, _ in fenced(page):
        yield from (line.strip() for line in code.replace("\\\n", " ").splitlines() if kind in ("", "sh"))
    yield from re.findall(r"`([^`\n]+)`", prose(page))


@cache
def commands() -> dict[str, set[str]]:
    """The subcommands of `scaling`, each with its options."""
    import typer

    from sweeps.cli import app

    group = typer.main.get_command(app)
    return {
        name: {option for parameter in command.params for option in parameter.opts}
        for name, command in group.commands.items()  # type: ignore[attr-defined]
    }


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_named_commands_and_options_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.M))
    wrong = []
    for line in shell_lines(page):
        for target in re.findall(r"(?:^|&& |[A-Z]=\S+ )make ([a-z][a-z-]*)", line):
            wrong += [f"make {target}"] * (target not in targets)
        called = re.search(r"(?:^|&& |/|')scaling (.*)", re.sub(r"\s#.*| \|.*(?!-)", "", line))
        if called is None or not re.match(r"[a-z-]", called[1]):
            continue
        words = re.split(r"[\s'=]+", called[1])
        if words[0].startswith("-"):
            continue
        options = [word for word in words if word.startswith("--")]
        available = commands().get(words[0])
        wrong += [line] * (available is None or any(o not in available | {"--help"} for o in options))
    assert not wrong


def test_every_command_and_option_is_on_the_page_of_commands() -> None:
    page = text_of(Path("docs/commands.md"))
    listed = set(re.findall(r"`(-?-?[a-z][a-z-]*)", page))
    options = {name for options in commands().values() for name in options if name.startswith("--")}
    assert not (commands().keys() | options) - listed, "docs/commands.md does not have them"


def test_every_sampler_of_every_family_is_on_the_page_of_samplers() -> None:
    from scaling.families import FAMILIES, get_family

    listed: dict[str, list[str]] = {}
    rows = re.findall(r"^\| (`\w+`)? ?\| ((?:`\w+`(?:, )?)+) \|", text_of(Path("docs/sampling.md")), re.M)
    for family, samplers in rows:
        if family.strip("`") in FAMILIES:
            names = listed.setdefault(family.strip("`"), [])
        elif family:
            continue
        names += re.findall(r"\w+", samplers)
    samplers_of = {name: list(get_family(name, vocab_size=8).samplers) for name in FAMILIES}
    assert listed == samplers_of, "the table of docs/sampling.md has one row for each sampler, in their order"


@pytest.mark.parametrize("page", [page for page in PAGES if "```yaml" in text_of(page)], ids=str)
def test_sweeps_written_out_are_valid(page: Path) -> None:
    from sweeps.config.load import parse_config

    for kind, code, _ in fenced(page):
        if kind == "yaml" and "families" in (content := yaml.safe_load(code)):
            assert parse_config(code, source=str(page)).name == content["name"]


def runnable(page: Path) -> list[tuple[str, str]]:
    """Python blocks to run, each with the output that the page prints below it, if any."""
    blocks, examples = fenced(page), []
    for (kind, code, skipped), (below, output, _) in zip(blocks, [*blocks[1:], ("", "", False)], strict=True):
        if kind == "python":
            ast.parse(code)
            if not skipped:
                examples.append((code, output if below == "text" else ""))
    return examples


@pytest.fixture
def tables_of_names() -> Iterator[None]:
    """What examples register is forgotten afterwards."""
    from analysis.figures import FIGURES
    from analysis.laws import METHODS
    from scaling.families import FAMILIES
    from sweeps.pools.start import POOLS

    tables: tuple[dict[str, object], ...] = (FAMILIES, FIGURES, METHODS, POOLS)  # type: ignore[assignment]
    before = [dict(table) for table in tables]
    yield
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.mark.usefixtures("tables_of_names")
@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in text_of(page)], ids=str)
def test_python_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of a page share their names. Numbers may differ by 1%: other processors round differently."""
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    blocks = runnable(page)
    assert blocks, "every block is marked as not run"
    for code, expected in blocks:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), names)
        for line in filter(None, expected.splitlines()):
            assert any(alike(line, other) for other in printed.getvalue().splitlines()), (
                f"{page} shows {line!r}, which is not printed:\n{printed.getvalue()}"
            )


def test_the_answer_on_the_first_page_is_what_the_command_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    called = re.search(r"bin/scaling (ask .*)\n\n```text\n((?:.*\n)*?)```", text_of(Path("README.md")))
    assert called is not None
    assert scaling(*called[1].split()) == 0
    printed = capsys.readouterr().out.splitlines()
    for line in filter(None, called[2].splitlines()):
        assert any(alike(line, other) for other in printed), f"{line!r} is not printed:\n{printed}"


def alike(documented: str, printed: str) -> bool:
    number = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
    if re.sub(number, "#", documented).split() != re.sub(number, "#", printed).split():
        return False
    if re.findall(r"\de([-+]?)", documented) != re.findall(r"\de([-+]?)", printed):
        return False  # 1e+22 where the program writes 1.0e22
    pairs = zip(re.findall(number, documented), re.findall(number, printed), strict=True)
    return all(float(a) == pytest.approx(float(b), rel=1e-2) for a, b in pairs)
