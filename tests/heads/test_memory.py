"""What the probe allocates beyond the model: one row of scores per head, never the attention matrix."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForImageTextToText, AutoProcessor

from sparsemm.documents import make_page
from sparsemm.heads.probe import probe
from sparsemm.models.loading import Checkpoint
from sparsemm.models.prompts import asked, prepare
from sparsemm.tiny import CHECKPOINT, OCR_PROMPT

STEPS = 3


class Allocations(TorchDispatchMode):
    """Shapes and types of all tensors that operations made, views left out."""

    def __init__(self):
        super().__init__()
        self.made = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage().data_ptr() for t in tree_leaves((args, kwargs)) if torch.is_tensor(t)}
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and tensor.untyped_storage().data_ptr() not in given:
                self.made[tuple(tensor.shape), tensor.dtype] += 1
        return out


def allocations(model, inputs, *, probed, attention="sdpa"):
    model.set_attn_implementation({"text_config": attention})
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False}
    with Allocations() as seen, torch.inference_mode():
        if probed:
            with probe(model):
                model.generate(**inputs, **options)
        else:
            model.generate(**inputs, **options)
    return seen.made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_row_of_scores_per_head(dtype):
    model = AutoModelForImageTextToText.from_pretrained(CHECKPOINT, dtype=dtype).eval()
    checkpoint = Checkpoint(model, AutoProcessor.from_pretrained(CHECKPOINT), model.device, dtype)
    pages = [make_page(seed, tokens=tokens) for seed, tokens in ((1, 144), (2, 96))]
    inputs = prepare(checkpoint, [asked(page.image, OCR_PROMPT) for page in pages])
    text = model.config.get_text_config()
    batch, length = inputs["input_ids"].shape
    heads, layers = text.num_attention_heads, text.num_hidden_layers
    plain = allocations(model, inputs, probed=False)
    extra = allocations(model, inputs, probed=True) - plain
    row = batch * heads * (length + STEPS)
    keys = row // heads * text.num_key_value_heads * (text.hidden_size // heads)
    sizes = {made: torch.Size(made[0]).numel() for made in extra}
    assert max(sizes.values()) <= (row if dtype == torch.float32 else max(row, keys)), extra
    # the rows are there: one matrix product and one mask for each layer of each step
    assert sum(count for (shape, _), count in extra.items() if shape[-1:] >= (length,)) >= layers * STEPS
    matrix = (batch, heads, length, length)
    assert not any(shape == matrix for shape, _ in plain | extra)
    # what is looked for can be seen: eager attention makes it
    eager = allocations(model, inputs, probed=False, attention="eager")
    assert any(shape == matrix for shape, _ in eager)
