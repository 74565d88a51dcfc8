"""Where the pixels of an image sit among its tokens: one file for each layout, one line for each family."""

from collections.abc import Callable

from sparsemm.models.families import (
    gemma3,
    idefics3,
    internvl,
    llava,
    llava_next,
    llava_onevision,
    paligemma,
    qwen_vl,
)
from sparsemm.models.view import Picture, View

LAYOUTS: dict[str, Callable[[Picture], list[View]]] = {
    "gemma3": gemma3.views,
    "idefics3": idefics3.views,
    "internvl": internvl.views,
    "llava": llava.views,
    "llava_next": llava_next.views,
    "llava_onevision": llava_onevision.views,
    "paligemma": paligemma.views,
    "qwen2_5_vl": qwen_vl.views,
    "qwen2_vl": qwen_vl.views,
    "qwen3_vl": qwen_vl.views,
    "smolvlm": idefics3.views,
}
"""``model_type`` -> the views of an image in the order of the prompt."""
