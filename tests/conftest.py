"""Settings that hold for every test; they must be in the environment before the libraries are imported."""

import os

os.environ.setdefault("MPLBACKEND", "Agg")
# No test may need the network, nor wait for it.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch
from hypothesis import settings

# torch alone does not import Triton, transformers does: without a GPU its kernels run in the interpreter.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# The same examples on every machine; no deadline, because a busy machine is not a wrong answer.
settings.register_profile("repository", deadline=None, derandomize=True)
settings.load_profile("repository")
