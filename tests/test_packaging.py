"""The wheel, built and installed into a clean environment: what is inside, and that it works anywhere."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed; the clone is not on its path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", folder, cwd=ROOT)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def binaries(wheel, tmp_path_factory) -> Path:
    """``bin`` of a new environment: the wheel installed, its dependencies borrowed, the clone unknown."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    run(
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        "--no-deps",
        "--no-index",
        wheel,
        cwd=folder,
    )
    program = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site_packages = Path(run(python, "-c", program, cwd=folder).strip())
    lender = Path(sysconfig.get_path("purelib"))
    (site_packages / "borrowed.pth").write_text(f"{lender}\n")
    for repair in lender.glob("torchvision_without_ops.pth"):  # path files work only where they are installed
        shutil.copy(repair, site_packages)
    return folder / "bin"


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


def shipped_files(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_wheel_holds_the_package_with_its_checkpoint_configs_and_head_scores(names):
    assert shipped_files(ROOT / "sparsemm") <= names
    assert {"sparsemm/tiny/checkpoint/config.json", "sparsemm/tiny/checkpoint/model.safetensors"} <= names
    assert {f"sparsemm/{name}" for name in shipped_files(ROOT / "eval_configs")} <= names
    assert {f"sparsemm/{name}" for name in shipped_files(ROOT / "results" / "head_scores")} <= names
    assert {f"sparsemm/{name}" for name in shipped_files(ROOT / "results" / "reference")} <= names


def test_wheel_holds_nothing_else(names):
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"sparsemm"}
    assert not [name for name in names if "torchvision" in name or name.endswith(".pth")]


@pytest.mark.parametrize("verb", ["sweep", "heads", "train-tiny"])
def test_verbs_compose_their_configuration_in_another_folder(binaries, tmp_path, verb):
    config = yaml.safe_load(run(binaries / "sparsemm", verb, "--cfg", "job", cwd=tmp_path))
    assert isinstance(config, dict)
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_experiments_compose_in_another_folder(binaries, tmp_path):
    config = yaml.safe_load(
        run(binaries / "sparsemm", "sweep", "--cfg", "job", "experiment=demo", cwd=tmp_path)
    )
    assert config["name"] == "demo"
    assert "sparsemm" in config["methods"]


def test_installed_package_uses_its_own_files(binaries, tmp_path):
    program = """if True:
        import json, sparsemm, sparsemm.tiny
        from importlib.metadata import entry_points
        from sparsemm.configs import shipped
        places = [sparsemm.__file__, sparsemm.tiny.CHECKPOINT]
        places += [shipped("eval_configs"), shipped("results/head_scores")]
        models = entry_points(group="lmms_eval.models", name="sparsemm")
        print(json.dumps([[str(place) for place in places], sorted({model.value for model in models})]))
    """
    places, models = json.loads(run(binaries / "python", "-c", program, cwd=tmp_path))
    assert all(Path(place).is_relative_to(binaries.parent) and Path(place).exists() for place in places)
    assert models == ["sparsemm.evaluation.manifest:manifests"]
