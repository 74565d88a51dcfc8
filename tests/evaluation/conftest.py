from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def made_data(tmp_path_factory: pytest.TempPathFactory):
    """Made data go to a temporary folder, never to the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEMM_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        yield


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with large random weights: it answers at length, and differently for different prompts."""
    from sparsemm.tiny.architecture import build_model, build_processor

    folder = tmp_path_factory.mktemp("untrained")
    model = build_model("tiny", seed=0)
    with torch.no_grad():
        for parameter in model.model.language_model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    model.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def untrained_scores(untrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Head scores that say they are of that checkpoint; the numbers are the embedded model's."""
    from sparsemm.configs import shipped
    from sparsemm.heads import HeadScores
    from sparsemm.models.checkpoint import fingerprint

    shipped_scores = HeadScores.load(shipped("results/head_scores/tiny.safetensors"))
    card = {**shipped_scores.card, "model": "untrained", "fingerprint": fingerprint(untrained)}
    return HeadScores(shipped_scores.hits, card).save(tmp_path_factory.mktemp("scores") / "own.safetensors")
