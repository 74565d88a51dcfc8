"""Every notebook runs as it is stored, on the committed results, and on what its parameter cell names."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ANALYSIS = Path(__file__).parents[2] / "analysis"
NOTEBOOKS = sorted(path.name for path in ANALYSIS.glob("*.ipynb"))


def pictures(name: str, parameters: str = "") -> int:
    """Number of pictures that a notebook shows, run in its folder; `parameters` follow its parameter cell."""
    notebook = nbformat.read(ANALYSIS / name, as_version=4)
    (place,) = (
        index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(parameters))
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(ANALYSIS)}}).execute()
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_shows_its_figure_of_the_committed_results(name):
    assert pictures(name) == 1


def test_parameter_cell_opens_another_file(tmp_path):
    file = tmp_path / "other.json"
    file.write_text(
        json.dumps({f"{layer}-{head}": [layer + head] for layer in range(4) for head in range(4)})
    )
    assert pictures("head_scores.ipynb", f"file = {str(file)!r}") == 1


def test_parameter_cell_refuses_a_folder_without_results(tmp_path):
    with pytest.raises(Exception, match=r"(?s)FileNotFoundError.*cells\.csv"):
        pictures("accuracy_vs_budget.ipynb", f"results = {str(tmp_path)!r}")
