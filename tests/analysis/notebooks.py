"""Notebooks from their text: ``make notebooks`` (``python -m tests.analysis.notebooks``) stores them."""

from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

ANALYSIS = Path(__file__).parents[2] / "analysis"
NOTEBOOKS = sorted(path.stem for path in ANALYSIS.glob("*.py"))
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def from_text(name: str) -> Any:
    """A notebook without outputs, as its text says."""
    notebook = jupytext.read(ANALYSIS / f"{name}.py")
    notebook.metadata = nbformat.from_dict(METADATA)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    return notebook


def execute(notebook: Any) -> None:
    """Run a notebook in its folder."""
    where = {"metadata": {"path": str(ANALYSIS)}}
    NotebookClient(notebook, timeout=300, resources=where, record_timing=False).execute()


def main() -> None:
    """Store every notebook with what it shows; what libraries say while they load is left out."""
    for name in NOTEBOOKS:
        notebook = from_text(name)
        execute(notebook)
        notebook.metadata = nbformat.from_dict(METADATA)  # without the interpreter's version
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if output.output_type != "stream"]
        nbformat.write(notebook, ANALYSIS / f"{name}.ipynb")
        print(ANALYSIS / f"{name}.ipynb")


if __name__ == "__main__":
    main()
