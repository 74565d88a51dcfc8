"""The model card: data, command, wall time, hardware, and how well the checkpoint reads."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparsemm.documents import HELD_OUT_FONT, SEEN_FONTS, VERSION
from sparsemm.tiny.reading import Reading
from sparsemm.tiny.vocabulary import OCR_PROMPT

TEXT = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
---

# sparsemm tiny: a small Qwen2-VL that reads

{parameters:.2f} M parameters, `Qwen2VLForConditionalGeneration`: {layers} layers, {heads} query and
{kv_heads} KV heads of {head_dim} dimensions. One visual token covers 16 x 16 pixels, about two characters;
text tokens are single characters (upper case, digits, `.:-/$%`). It knows two instructions:
`{ocr}` and `What is the value of ABC?`.
It exists so that KV-cache compression can be measured on a model that truly reads its images; it is of no
other use.

## Data

Pages of `sparsemm.documents` version {documents}: prose, key/value forms and small ruled tables, 12 to 14
pixels high, on noisy paper, in these faces: {fonts}.
Words, keys and seeds of training and evaluation are disjoint; `{held_out}` is never trained on.

## Recipe

`{command}`, seed {seed}: {steps} steps, {seconds:.0f} s of wall time on {hardware},
{versions}. Muon for hidden matrices, AdamW for the
rest, bfloat16 autocast.

{stages}

## Reading, greedy, on unseen pages

{readings}

Look-up: exact value. Lines found: lines that the transcription holds exactly. Character error: edit distance
over characters. Transcription: pages without an error. "seen" mixes the training faces.

## What was tried

{tried}"""

TRIED = """\
- Muon and AdamW, on the first stage alone: about equal per second, Muon a little ahead per page. It stayed.
- Look-ups and transcription are trained together from the second stage on; every question attends to the
  image and to itself only, so one image serves up to seven questions. The text loss left its plateau
  about 300 steps into that stage (`log.csv`).
- Loss on the three key characters of a question (weight 0.3) is part of the recipe; leaving it out was not
  tried.
- The committed checkpoint's second stage was planned with 1,200 steps down to 1e-3 and cut at 606, at a rate
  of 1.5e-3, once small pages were read. The recipe has 606 steps down to 1.5e-3; it was not run again from
  scratch. Other work ran beside it, so its wall time is an upper limit.
- Attention as plain matrix products in bfloat16 was faster than SDPA in float32. The first two stages still
  ran with the latter.
"""


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, numbers with three significant digits."""
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    for row in rows:
        cells = (f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_card(
    folder: Path, model: Any, config: dict[str, Any], seconds: float, readings: list[Reading]
) -> None:
    """Write ``README.md`` and ``training.json`` (the same facts, for programs) into a checkpoint's folder.

    Parameters
    ----------
    folder : Path
    model : Qwen2VLForConditionalGeneration
    config : dict
        The `TrainConfig`.
    seconds : float
        Wall time of the training.
    readings : list of Reading
    """
    text = model.config.text_config
    facts = {
        "command": "sparsemm train-tiny",
        "seed": config["seed"],
        "stages": config["stages"],
        "seconds": round(seconds),
        "hardware": f"{os.cpu_count()} {platform.machine()} CPU cores"
        if config["device"] == "cpu"
        else config["device"],
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "documents_version": VERSION,
        "readings": [asdict(reading) for reading in readings],
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    card = TEXT.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.hidden_size // text.num_attention_heads,
        ocr=OCR_PROMPT,
        documents=VERSION,
        fonts=", ".join(SEEN_FONTS),
        held_out=HELD_OUT_FONT,
        command=facts["command"],
        seed=config["seed"],
        steps=sum(stage["steps"] for stage in config["stages"]),
        seconds=seconds,
        hardware=facts["hardware"],
        versions=", ".join(f"{name} {number}" for name, number in facts["versions"].items()),
        stages=table(config["stages"]),
        readings=table(facts["readings"]),
        tried=TRIED,
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
