"""The small checkpoint that tests/evaluation uses, four pages a task, and nobody to answer questions."""

import builtins
from collections.abc import Iterator

import pytest

from sparsemm.evaluation import tasks
from tests.evaluation.conftest import made_data, untrained, untrained_scores

__all__ = ["made_data", "untrained", "untrained_scores"]


@pytest.fixture(scope="package", autouse=True)
def few_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Local tasks of four documents, drawn before any test looks at what a command prints."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEMM_CACHE", str(tmp_path_factory.mktemp("few")))
        patch.setattr(tasks, "DOCUMENTS", 4)
        patch.setattr(tasks.documents, "__defaults__", (4,))
        tasks.include_path()
        yield


@pytest.fixture(autouse=True)
def nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked on the terminal: transformers would take ``y`` for an answer and go on."""
    asked: list[str] = []

    def answer(question: str = "") -> str:
        asked.append(question)
        return "y"

    monkeypatch.setattr(builtins, "input", answer)
    return asked
