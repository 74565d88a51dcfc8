"""The model card: data, command, wall time, hardware, and how well the checkpoint reads."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sparsemm.configs import recorded
from sparsemm.documents import HELD_OUT_FONT, SEEN_FONTS, VERSION
from sparsemm.tiny.reading import Reading
from sparsemm.tiny.vocabulary import PHRASES

TEXT = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
license: apache-2.0
---

# sparsemm {preset}: a small Qwen2-VL that reads

{parameters:.2f} M parameters, `Qwen2VLForConditionalGeneration`: {layers} layers, {heads} query and
{kv_heads} KV heads of {head_dim} dimensions. One visual token covers 16 x 16 pixels, about two characters;
text tokens are single characters (letters, digits, `.:-/$%`) and the fixed parts of its questions:

{phrases}

It exists so that KV-cache compression can be measured on a model that truly reads its images; it is of no
other use.

## Data

Pages of `sparsemm.documents` version {documents}: forms with prose, receipts, tables, bar charts and signs on
coloured paper, mixed case, 12 to 16 pixels high, with noise, half of them slightly tilted, in these faces:
{fonts}.
Words, keys and seeds of training and evaluation are disjoint; `{held_out}` is never trained on.

## Recipe

`{command}`, seed {seed}: {steps} steps, {seconds:.0f} s of wall time on {hardware},
{versions}. Muon for hidden matrices, AdamW for the
rest, bfloat16 autocast.

{stages}

## Reading, greedy, on unseen pages

{readings}

exact: answers, or transcriptions ("ocr"), without any error. lines_found: lines that the transcription holds
exactly. character_error: edit distance over characters. "seen" mixes the training faces.
{former}"""

FORMER = """
## The checkpoint that it started from

Its weights are where training began (`start`; `sparsemm.tiny.growth` says how added layers and tokens begin).
It had been trained on pages of version {documents} in {seconds} s:

{stages}

and read unseen pages of that version, fewer kinds in fewer faces, like this:

{readings}
"""


def columns_of(rows: list[dict[str, Any]]) -> list[str]:
    """Names of all columns, in order of appearance."""
    return list(dict.fromkeys(name for row in rows for name in row))


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, numbers with three significant digits."""
    names = columns_of(rows)
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    for row in rows:
        values = (row.get(name) for name in names)
        cells = (f"{v:.3g}" if isinstance(v, float) else "" if v is None else str(v) for v in values)
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
        "command": f"sparsemm train-tiny preset={config['preset']}",
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
    facts = recorded(facts)
    former = Path(config["start"]) / "training.json" if config["start"] else None
    if former and former.is_file():
        facts["started_from"] = json.loads(former.read_text(encoding="utf-8"))
    (folder / "training.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    card = TEXT.format(
        parameters=sum(p.numel() for p in model.parameters()) / 1e6,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=text.hidden_size // text.num_attention_heads,
        preset=config["preset"],
        phrases="\n".join(f"- `{phrase.strip()}`" for phrase in PHRASES),
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
        former=_former(facts.get("started_from")),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")


def _former(facts: dict[str, Any] | None) -> str:
    """What is known of the checkpoint that training started from; nothing for random weights."""
    if not facts:
        return ""
    return FORMER.format(
        documents=facts["documents_version"],
        seconds=facts["seconds"],
        stages=table(facts["stages"]),
        readings=table(facts["readings"]),
    )
