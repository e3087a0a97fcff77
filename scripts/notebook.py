"""Run a notebook in a fresh kernel and keep the result: python scripts/notebook.py NOTEBOOK FOLDER.

Writes NOTEBOOK's executed copy and a page (.html) of it into FOLDER; the notebook itself stays as it is.
The page needs no network: the links that nbconvert would put to scripts on other hosts are left out.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter


def execute(source: Path, folder: Path) -> Path:
    """Run every cell of `source` and return the page; raises CellExecutionError if a cell fails."""
    notebook = nbformat.read(source, as_version=4)
    # Figures for Jupyter, and for a page that has no Jupyter around it.
    os.environ.setdefault("PLOTLY_RENDERER", "plotly_mimetype+notebook")
    # The kernel is this very interpreter, whatever name the notebook was last saved under, reached by a
    # socket that only this user can open.
    kernel = AsyncKernelManager(kernel_name="python3", transport="ipc")
    resources = {"metadata": {"path": "."}}
    NotebookClient(notebook, km=kernel, timeout=600, resources=resources).execute()
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / source.name)
    page = folder / f"{source.stem}.html"
    exporter = HTMLExporter(mathjax_url="", require_js_url="", jquery_url="", widget_renderer_url="")
    page.write_text(exporter.from_notebook_node(notebook)[0], encoding="utf-8")
    return page


def main() -> int:
    if len(sys.argv) != 3:
        print("usage: python scripts/notebook.py NOTEBOOK FOLDER", file=sys.stderr)
        return 2
    source, folder = Path(sys.argv[1]), Path(sys.argv[2])
    if not source.is_file():
        print(f"notebook: there is no file {source}", file=sys.stderr)
        return 2
    print(f"notebook: running {source} in a fresh kernel", flush=True)
    try:
        page = execute(source, folder)
    except CellExecutionError as error:
        print(f"notebook: a cell of {source} failed\n{error}", file=sys.stderr)
        return 1
    print(f"notebook: done; open {page} in a browser, or {folder / source.name} in Jupyter or an editor")
    return 0


if __name__ == "__main__":
    sys.exit(main())
