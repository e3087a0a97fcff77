"""Write docs/house.md, the list of files: python scripts/house.py [--check].

One line a file, the first sentence of its docstring or opening comment.
With --check nothing is written; the exit code says whether the file on disk is up to date.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "house.md"
PACKAGES = ("scaling", "sweeps", "analysis")
HEAD = """# The house: every file

Data flows one way: a config becomes specs, specs become losses, losses become laws. `scaling` trains one run,
`sweeps` runs many, `analysis` fits laws to them; two that do not know each other.
This page is written by `python scripts/house.py` from each file's first sentence; a test keeps it up to date.
"""


def first_sentence(path: Path) -> str:
    """What the file says it is, up to the first full stop: its docstring, opening comment or title."""
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


def page() -> str:
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


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        return int(not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text)
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
