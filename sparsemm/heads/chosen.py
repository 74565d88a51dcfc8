"""Which documents ``sparsemm heads`` reads: the option ``documents`` and those that belong to it."""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsemm.configs import InputError
from sparsemm.heads.sources import BOXES, Boxed, from_folder, generated, running
from sparsemm.heads.synthdog import DATASET, from_dataset
from sparsemm.methods.base import MOST

NAMES = ("pages", "running", "synthdog")


class Chosen(NamedTuple):
    """Documents of a run.

    Attributes
    ----------
    documents
        In order.
    facts
        What the card says of them.
    identity
        What a document depends on; the same for any number of them, so that a run can be made longer.
    """

    documents: Sequence[Boxed]
    facts: dict[str, Any]
    identity: dict[str, Any]


def choose(config: Mapping[str, Any]) -> Chosen:
    """Return the documents that a configuration of ``sparsemm heads`` names.

    Raises
    ------
    InputError
        ``documents`` names nothing that can be read, or what belongs to it is wrong.
    """
    n, given, seed = config["n"], config["documents"], config["seed"]
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise InputError(f"n must be a positive integer, got {n!r}")
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise InputError(f"seed must be an integer from 0 on, got {seed!r}")
    for name in ("n", "seed"):
        if config[name] > MOST:
            raise InputError(f"{name} must be at most {MOST}, got {config[name]}")
    if not isinstance(config["kinds"], Sequence) or isinstance(config["kinds"], str):
        raise InputError(f"kinds must be a list of kinds of pages ([form,receipt]), got {config['kinds']!r}")
    if not isinstance(config["tokens"], int):
        raise InputError(f"tokens must be a number of visual tokens, got {config['tokens']!r}")
    if given == "pages":
        pages, facts = generated(n, seed=seed, kinds=config["kinds"], tokens=config["tokens"])
        options = {name: config[name] for name in ("seed", "kinds", "tokens")}
        return Chosen(pages, facts, {**_endless(facts), **options})
    if given == "running":
        pages, facts = running(n, seed=seed, size=config["size"])
        return Chosen(pages, facts, {**_endless(facts), "seed": seed})
    if given == "synthdog":
        return _rows(None, n, {"dataset": DATASET})
    path = Path(str(given))
    if path.suffix == ".parquet" and path.is_file():
        return _rows(path, n, {})
    if path.is_dir() and (path / BOXES).is_file():
        scans, facts = from_folder(path, n)
        return Chosen(scans, facts, facts)
    if path.is_dir() and next(path.rglob("*.parquet"), None):
        return _rows(path, n, {})
    if path.is_dir():
        raise InputError(f"documents={given}: there is no {BOXES} in it, and no .parquet")
    close = difflib.get_close_matches(str(given), NAMES, n=1)
    hint = (
        f"did you mean {close[0]}?" if close else f"known: {', '.join(NAMES)}, or a folder or .parquet file"
    )
    raise InputError(f"documents={given}: there is no such folder or file; {hint}")


OF = {"kinds": ("pages",), "tokens": ("pages",), "size": ("running",), "seed": ("pages", "running")}
"""Options that belong to some documents only."""


def idle(config: Mapping[str, Any]) -> dict[str, str]:
    """Options of ``eval_configs/heads.yaml`` without an effect, by name, and why."""
    found = {
        name: f"it is for documents={' or '.join(those)}, not {config['documents']}"
        for name, those in OF.items()
        if config["documents"] not in those
    }
    for name in ("window", "head_scores"):
        found[f"model.{name}"] = "nothing is compressed while the heads are measured"
    return found


def _endless(facts: dict[str, Any]) -> dict[str, Any]:
    """What a card says of generated documents, less how many they are."""
    return {name: fact for name, fact in facts.items() if name != "seeds"}


def _rows(files: Path | None, n: int, facts: dict[str, Any]) -> Chosen:
    rows = from_dataset(files, n)
    whole = hashlib.sha256("".join(row.digest for row in rows).encode()).hexdigest()[:16]
    return Chosen(rows, {**facts, "documents": whole}, {**facts, "first_row": rows[0].digest})
