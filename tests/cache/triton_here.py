"""Where the Triton kernels can be tried: on a GPU, else in the interpreter, which conftest.py switched on."""

from importlib.util import find_spec

import pytest
import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
in_the_interpreter = pytest.mark.skipif(
    find_spec("triton") is None or DEVICE.type != "cpu",
    reason="Triton is not installed, or runs on the GPU",
)
