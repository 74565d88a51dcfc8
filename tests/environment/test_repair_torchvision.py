"""The repair on a stand-in for torchvision: its one fake operator has no real one, as beside a CPU torch."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPAIR = Path(__file__).parent / "repair_torchvision.py"


@pytest.fixture
def run(tmp_path):
    """A function that runs a program beside the repair and a torchvision with operators or without."""

    def run(program: str, *, operators: bool = False) -> subprocess.CompletedProcess[str]:
        package = tmp_path / "torchvision"
        package.mkdir()
        (package / "__init__.py").write_text("from torchvision import extension, _meta_registrations\n")
        (package / "extension.py").write_text(f"def _has_ops():\n    return {operators}\n")
        (package / "_meta_registrations.py").write_text(
            "import torch.library\n\n@torch.library.register_fake('torchvision::nms')\ndef nms(boxes): ...\n"
        )
        shutil.copyfile(REPAIR, tmp_path / "torchvision_without_ops.py")
        path = os.pathsep.join([str(tmp_path), sysconfig.get_path("purelib")])
        # -S: without the path files of this environment, where the repair may be at work already
        command = [sys.executable, "-S", "-c", program]
        return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)

    return run


def test_without_the_repair_the_import_fails(run):
    assert "operator torchvision::nms does not exist" in run("import torchvision").stderr


def test_with_the_repair_it_passes_and_torch_is_left_as_it_was(run):
    done = run(
        "import torchvision_without_ops, torch.library; before = torch.library.register_fake;"
        "import torchvision;"
        "assert torch.library.register_fake is before; assert torchvision._meta_registrations.nms"
    )
    assert done.returncode == 0, done.stderr


def test_a_torchvision_with_operators_is_not_touched(run):
    done = run("import torchvision_without_ops, torchvision", operators=True)
    assert "operator torchvision::nms does not exist" in done.stderr


def test_interpreter_start_does_not_import_torch(run):
    done = run("import sys, torchvision_without_ops; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False"
