"""Data that name files of this machine: only what the user names, or what lies beside the data, is opened."""

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from sparsemm import cli
from sparsemm.configs import InputError
from sparsemm.evaluation import official_data
from sparsemm.evaluation.embedded import picture
from sparsemm.figures.sweep import find_head_scores
from sparsemm.models.checkpoint import locate
from sparsemm.report.pictures import documents_of
from tests.evaluation.official_documents import rows_of, write
from tests.evaluation.provoking import refused, stored, sweep


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A picture of this machine that nobody named."""
    file = tmp_path / "secret.png"
    Image.new("RGB", (64, 64), "red").save(file)
    return file


def named(file: Path) -> dict[str, Any]:
    return {"bytes": None, "path": str(file)}


def test_a_picture_that_is_only_named_fails_its_document(untrained, secret, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    rows = rows_of("docvqa_val", 2)
    rows[1]["image"] = named(secret)
    data = write("docvqa_val", tmp_path / "data.parquet", rows)
    options = ["task=[docvqa_val]", f"tasks.docvqa_val.data_files={data}", "method=[snapkv]"]
    assert cli.main(sweep(untrained, *options)) == 1
    shown = " ".join(capfd.readouterr().out.split())
    assert "docvqa_val document 1: ValueError: the data name a file in the place of a picture" in shown
    assert [failed for _, _, failed in sorted(stored(Path("results/sweep")))] == [0, 1]


def test_columns_are_no_pictures_because_the_file_says_so(tmp_path, secret):
    rows = [{**row, "question": named(secret)} for row in rows_of("docvqa_val", 1)]
    made = datasets.Dataset.from_list(rows).cast_column("question", datasets.Image())
    made.to_parquet(tmp_path / "data.parquet")
    assert isinstance(
        datasets.Dataset.from_parquet(str(tmp_path / "data.parquet"))[0]["question"], Image.Image
    )
    found = official_data.features(tmp_path / "data.parquet")
    assert [name for name, kind in found.items() if isinstance(kind, datasets.Image)] == ["image"]


def test_a_photograph_is_turned_as_datasets_turns_it():
    image, buffer = Image.new("RGB", (30, 20), "red"), io.BytesIO()
    image.putpixel((0, 0), (0, 0, 255))
    turned = Image.Exif()
    turned[0x0112] = 6
    image.save(buffer, "PNG", exif=turned)
    held = {"bytes": buffer.getvalue(), "path": None}
    ours, theirs = picture(held), datasets.Image().decode_example(held)
    assert ours.size == (20, 30)
    assert ours.tobytes() == theirs.tobytes()


def label_of(file: Path) -> str:
    return f"{file.name}@{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"


def test_head_scores_elsewhere_are_found_only_where_they_are_given(untrained_scores, tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    label = label_of(untrained_scores)
    run = {"config": {"model": {"head_scores": str(untrained_scores)}}}
    (folder / "run.json").write_text(json.dumps(run))
    assert find_head_scores(label, folder) is None
    assert find_head_scores(label, folder, [untrained_scores]) == untrained_scores
    assert find_head_scores(f"{untrained_scores.name}@", folder, [untrained_scores]) is None
    shutil.copy(untrained_scores, tmp_path / "outside.safetensors")
    outside = label_of(tmp_path / "outside.safetensors")
    assert find_head_scores(f"../{outside}", folder) is None
    (folder / "outside.safetensors").symlink_to(tmp_path / "outside.safetensors")
    assert find_head_scores(outside, folder) is None
    (folder / "outside.safetensors").unlink()
    shutil.copy(untrained_scores, folder / "outside.safetensors")
    assert find_head_scores(outside, folder) == folder / "outside.safetensors"


def test_documents_elsewhere_are_shown_only_where_they_are_given(tmp_path):
    folder = tmp_path / "results"
    folder.mkdir()
    outside = write("docvqa_val", tmp_path / "data.parquet", rows_of("docvqa_val", 2))
    inside = Path(shutil.copy(outside, folder))
    (folder / "link.parquet").symlink_to(outside)

    def shown(named: Any, given: str | None = None) -> int:
        return len(documents_of("docvqa_val", {"data_files": named}, given, 2, 10**6, folder))

    for hostile in (str(outside), str(folder / "link.parquet"), str(folder / ".." / "*.parquet"), ["a"], 3):
        with pytest.raises(InputError, match="not in the folder; give them: --data docvqa_val=FILES"):
            shown(hostile)
    assert shown(str(inside)) == shown(None, str(outside)) == 2


def test_boxes_name_pictures_of_their_own_folder(secret, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("scans").mkdir()
    for name in ("../secret.png", str(secret)):
        boxes = {name: [{"text": "A", "box": [0, 0, 9, 9]}]}
        Path("scans/boxes.json").write_text(json.dumps(boxes))
        line = refused(capfd, ["heads", "documents=scans", "n=1", "output=own.safetensors"])
        assert f"the picture {name!r} is not in the folder, and is not opened" in line


def test_a_checkpoint_is_all_in_its_folder(untrained, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(untrained, folder)
    index = folder / "model.safetensors.index.json"
    for hostile in ("../other/model.safetensors", str(untrained / "model.safetensors"), 3):
        index.write_text(json.dumps({"metadata": {}, "weight_map": {"a": "model.safetensors", "b": hostile}}))
        with pytest.raises(InputError, match=r"index\.json names the file"):
            locate(str(folder))
    index.unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "some/model"}))
    with pytest.raises(InputError, match="has an adapter"):
        locate(str(folder))
