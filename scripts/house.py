"""Write the generated pages: python scripts/house.py [--check].

docs/house.md has one line a file, the first sentence of its docstring or opening comment. docs/config.md has
a table for each section of a sweep's YAML file, from `sweeps.config.model` and the docstrings of its fields.
With --check nothing is written; the exit code says whether the pages on disk are up to date.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

ROOT = Path(__file__).parents[1]
HOUSE, CONFIG = ROOT / "docs" / "house.md", ROOT / "docs" / "config.md"
PACKAGES = ("scaling", "sweeps", "analysis")
HEAD = """# The house: every file

Data flows one way: a config becomes specs, specs become losses, losses become laws. `scaling` trains one run,
`sweeps` runs many, `analysis` fits laws to them; `scaling` and `analysis` do not import each other.
This page is written by `python scripts/house.py` from each file's first sentence; a test keeps it up to date.
"""
MARK = "<!-- from here on written by scripts/house.py from the fields of sweeps/config/model.py -->\n"


def first_sentence(path: Path) -> str:
    """The start of a file's docstring, opening comment or title, up to the first full stop."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    elif path.suffix == ".html":
        text = re.search(r"<title>(.*?)</title>", text, re.S)[1]  # type: ignore[index]
    else:
        lines = [line.strip(" /*#") for line in text.splitlines() if re.match(r"\s*(/\*|//|#|\*)", line)]
        text = " ".join(lines)
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[^.])\.(?:\s|$)", paragraph)[0]


def files() -> list[Path]:
    """Files of the three packages that git knows or would take, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *PACKAGES]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    readable = {".py", ".yaml", ".js", ".css", ".html"}
    paths = {Path(line) for line in listed.splitlines()}
    return sorted(path for path in paths if path.suffix in readable and (ROOT / path).is_file())


def house() -> str:
    rooms: dict[Path, list[Path]] = {}
    for path in files():
        rooms.setdefault(path.parent, []).append(path)
    parts = [HEAD]
    for room, inside in sorted(rooms.items()):
        opening = ROOT / room / "__init__.py"
        parts.append(
            f"## {room}/\n\n{first_sentence(opening) + '.' if opening.exists() else ''}".rstrip() + "\n"
        )
        rows = [
            f"| `{path.name}` | {first_sentence(ROOT / path)} |"
            for path in inside
            if path.name != "__init__.py"
        ]
        if rows:
            parts.append("\n".join(["| file | what it is |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def field_docs(section: type) -> dict[str, str]:
    """The string under each field, of base classes too."""
    docs: dict[str, str] = {}
    for owner in reversed([owner for owner in section.__mro__ if owner.__module__.startswith(PACKAGES)]):
        body = ast.parse(inspect.getsource(owner)).body[0].body  # type: ignore[attr-defined]
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                docs[ast.unparse(field.target)] = " ".join(ast.literal_eval(below.value).split())
    return docs


def is_section(kind: Any) -> bool:
    return isinstance(kind, type) and (is_dataclass(kind) or hasattr(kind, "model_fields"))


def in_words(kind: Any) -> str:
    """A field's type as a writer of YAML sees it."""
    origin, inside = get_origin(kind), get_args(kind)
    if origin is Annotated:
        limits = [limit for note in inside[1:] for limit in getattr(note, "metadata", [note])]
        words = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
        stated = [
            f"{word} {getattr(limit, name):.4g}"
            for limit in limits
            for name, word in words.items()
            if getattr(limit, name, None) is not None
        ]
        return ", ".join([in_words(inside[0]), *stated])
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, inside))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in inside)
    if origin is tuple:
        one, _, rest = in_words(inside[0]).partition(",")
        several = len(inside) == 2 and inside[1] is not Ellipsis
        count = f"{len(inside)} " if several else ""
        return f"list of {count}{one}{'' if one == 'text' else 's'}{rest and f',{rest}'}"
    if origin is dict:
        return f"mapping of {in_words(inside[0])} to {in_words(inside[1])}"
    if is_section(kind):
        return "section"
    return {
        str: "text",
        int: "integer",
        float: "number",
        bool: "true or false",
        NoneType: "null",
        Any: "any",
    }[kind]


def default_of(section: Any, name: str) -> str:
    """The default as YAML; empty if the key is required."""
    if is_dataclass(section):
        field = next(field for field in fields(section) if field.name == name)
        value = field.default
        if value is MISSING:
            return ""
    else:
        info = section.model_fields[name]
        if info.is_required():
            return ""
        value = info.get_default(call_default_factory=True)
    if is_section(type(value)) or value in ({}, ()):
        return "see there" if is_section(type(value)) else "empty"
    if value is None or isinstance(value, bool):
        return "`null`" if value is None else f"`{str(value).lower()}`"
    return f"`{list(value) if isinstance(value, tuple) else value}`"


def sections(kind: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every section of the file below a type, with the path of its key."""
    if is_section(kind):
        yield path, kind
        for name, inside in get_type_hints(kind, include_extras=True).items():
            if name in field_docs(kind):
                yield from sections(inside, f"{path}.{name}".lstrip("."))
    elif get_origin(kind) is dict and is_section(get_args(kind)[1]):
        yield from sections(get_args(kind)[1], f"{path}.NAME")
    else:
        for part in get_args(kind):
            yield from sections(part, path)


def config() -> str:
    """docs/config.md as it is down to the mark, then a table for every section."""
    sys.path.insert(0, str(ROOT))
    from sweeps.config.model import SweepConfig

    parts = [CONFIG.read_text(encoding="utf-8").partition(MARK)[0] + MARK]
    described: set[type] = set()
    for path, section in sections(SweepConfig):
        if section in described:  # a family's window is a window
            continue
        described.add(section)
        docs, hints = field_docs(section), get_type_hints(section, include_extras=True)
        names = [name for name in hints if name not in ("source", "model_config")]
        if silent := [name for name in names if name not in docs]:
            sys.exit(
                f"house: {section.__name__} says nothing about {', '.join(silent)}; add a docstring below"
            )
        opening = "\n\n".join(
            " ".join(part.split())
            for part in (inspect.getdoc(section) or "").split("\n\n")
            if not part.startswith("Raises")
        )
        parts.append(f"## {f'`{path}`' if path else 'Top level'}\n\n{opening}\n")
        rows = [f"| `{n}` | {in_words(hints[n])} | {default_of(section, n)} | {docs[n]} |" for n in names]
        parts.append("\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def main() -> int:
    pages = {HOUSE: house(), CONFIG: config()}
    if "--check" in sys.argv[1:]:
        return int(any(not path.exists() or path.read_text("utf-8") != text for path, text in pages.items()))
    for path, text in pages.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
