"""The end of the progress line: the best heads and the agreement of the halves, and that a run shows them."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import spearmanr

from sparsemm.heads.identify import run
from sparsemm.heads.standing import halves_agreement, standing
from tests.heads.test_probe import OPTIONS, read


def test_the_best_heads_and_the_agreement_of_every_other_document():
    hits = np.random.default_rng(0).random((7, 3, 4)).astype(np.float32)
    hits[:, 2, 1] += 2
    hits[:, 0, 3] += 1
    found: Any = spearmanr(hits[[0, 2, 4, 6]].sum(0).ravel(), hits[[1, 3, 5]].sum(0).ravel())
    expected = found.statistic
    assert halves_agreement(hits) == pytest.approx(expected)
    said = standing([hits[:4], hits[4:]])
    assert said.startswith("best 2-1 0-3 ")
    assert said.endswith(f", halves agree {expected:.3f}")


def test_nothing_is_said_of_nothing():
    assert standing([]) == ""
    assert standing([np.zeros((3, 2, 2))]) == ""
    assert standing([np.eye(2)[None]]) == "best 0-0 1-1 0-1"  # one document has no halves
    assert np.isnan(halves_agreement(np.ones((1, 2, 2))))


def test_a_run_shows_how_it_stands_and_a_resumed_one_where_it_was(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sparsemm.heads.progress.Progress.done", lambda self: None)  # as if it was cut off
    options = {**OPTIONS, "n": 4, "batch_size": 2, "tokens": 48, "model": read("model", "tiny")}
    output = str(tmp_path / "tiny.safetensors")
    run({**options, "output": output})
    shown = capsys.readouterr().err
    assert "2/2" in shown
    assert "halves agree" in shown
    run({**options, "n": 6, "output": output})
    lines = capsys.readouterr().err.split("\r")
    assert "2/3" in next(line for line in lines if "heads:" in line)
    assert "3/3" in lines[-1]
    assert "best " in lines[-1]
