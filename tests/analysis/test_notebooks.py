"""Every notebook runs as it is stored, on the committed results, and on what its parameter cell names."""

import json
from typing import Any

import jupytext
import nbformat
import pytest

from tests.analysis.notebooks import ANALYSIS, NOTEBOOKS, execute


def read(name: str) -> Any:
    return nbformat.read(ANALYSIS / f"{name}.ipynb", as_version=4)


def shown(notebook: Any) -> int:
    """Number of pictures that a notebook shows."""
    outputs = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return sum("image/png" in output.get("data", {}) for output in outputs)


def pictures(name: str, parameters: str = "") -> int:
    """Number of pictures that a notebook shows when it is run; `parameters` follow its parameter cell."""
    notebook = read(name)
    (place,) = (
        index for index, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(parameters))
    execute(notebook)
    return shown(notebook)


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_shows_its_figures_of_the_committed_results(name):
    assert pictures(name) == shown(read(name)) > 0


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_stored_with_its_outputs_and_agrees_with_its_text(name):
    """`make notebooks` stores them."""
    notebook, text = read(name), jupytext.read(ANALYSIS / f"{name}.py")
    for one, other in zip(notebook.cells, text.cells, strict=True):
        assert (one.cell_type, one.source) == (other.cell_type, other.source)
        assert one.metadata.get("tags") == other.metadata.get("tags")
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    kinds = {output.output_type for cell in code for output in cell.outputs}
    assert kinds <= {"execute_result", "display_data"}


def test_every_notebook_has_its_text():
    assert sorted(path.stem for path in ANALYSIS.glob("*.ipynb")) == NOTEBOOKS


def test_parameter_cell_opens_another_file(tmp_path):
    file = tmp_path / "other.json"
    file.write_text(
        json.dumps({f"{layer}-{head}": [layer + head] for layer in range(4) for head in range(4)})
    )
    assert pictures("head_scores", f"file = {str(file)!r}") == 2


def test_parameter_cell_refuses_a_folder_without_results(tmp_path):
    with pytest.raises(Exception, match=r"(?s)FileNotFoundError.*cells\.csv"):
        pictures("accuracy_vs_budget", f"results = {str(tmp_path)!r}")
