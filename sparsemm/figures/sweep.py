"""Which figures a sweep's tables give, and from which of their rows."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from sparsemm.configs import is_within, shipped
from sparsemm.evaluation.allocations import load_allocations
from sparsemm.evaluation.tables import IMAGE_QUESTION, PROMPTS, QUESTION_AFTER, load_results
from sparsemm.figures.ablation import mask_ablation
from sparsemm.figures.accuracy import accuracy_vs_budget, accuracy_vs_realised_budget
from sparsemm.figures.allocation import allocation_heatmap, heatmap_rows
from sparsemm.figures.concentration import head_concentration
from sparsemm.figures.differences import differences_vs_budget
from sparsemm.figures.heads import head_scores
from sparsemm.figures.overall import overall_score
from sparsemm.figures.pareto import latencies, score_vs_latency, score_vs_memory
from sparsemm.figures.published import SOURCE, published_for
from sparsemm.figures.reproduction import reproduction_delta
from sparsemm.figures.style import figure_of
from sparsemm.heads import HeadScores
from sparsemm.heads.concentration import SIZES, rank_agreement, top_share

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SPLIT = {"sparsemm", "sparsemm_layer_mean", "sparsemm_flat"}
"""Methods between which `differences_vs_budget` splits SparseMM's gain."""

NOT_HERE = "are not in the folder (--head-scores FILE gives them)"

ENDINGS = {IMAGE_QUESTION: "", QUESTION_AFTER: "_question_after"}
"""What the names of figures of each form of prompts end in."""


class _Drawing:
    """Figures by name; what raises ValueError is left out, and said."""

    def __init__(self, say: Callable[[str], None], sized: dict[str, float]) -> None:
        self.say, self.sized = say, sized
        self.figures: dict[str, Figure] = {}

    def draw(self, name: str, function: Callable[..., Figure], *data: Any, **options: Any) -> None:
        try:
            self.figures[name] = function(*data, **options, **self.sized)
        except ValueError as error:
            self.leave_out(name, str(error))

    def leave_out(self, name: str, reason: str) -> None:
        self.say(f"{name} is left out: {reason}")


def sweep_figures(
    folder: Path,
    *,
    decode: pd.DataFrame | None = None,
    paper: bool = False,
    heads: Sequence[Path] = (),
    say: Callable[[str], None],
    **sized: float,
) -> dict[str, Figure]:
    """Draw all figures of a sweep's tables, by name.

    From its cells ``accuracy_vs_budget``, ``accuracy_controls`` (SparseMM and its controls) and
    ``accuracy_variants`` (released and original forms beside ours); ``accuracy_vs_realised_budget`` and
    ``accuracy_variants_realised``; ``score_vs_memory``, and with decode times
    ``score_vs_latency_<device>_batch<size>``; ``overall_score``; ``reproduction_delta`` where the paper has
    the same models and tasks. All of these once more, with ``_question_after``, for prompts compressed
    before their question, and with ``_shares`` for budgets that are shares of the prompt where others count
    tokens. From its allocations ``allocation_<model>``; ``mask_ablation``; from its comparisons
    ``differences_vs_budget``; ``head_scores_<file>`` and ``head_concentration_<file>`` for every file of
    head scores that the cells used, if that very file (by its hash) is given, lies in the folder, or comes
    with sparsemm.

    Parameters
    ----------
    folder : Path
        ``results/<experiment>``.
    decode : pandas.DataFrame, optional
        Rows of ``decode.csv``.
    paper : bool, default=False
        Mark published scores in ``accuracy_vs_budget``.
    heads : sequence of Path, optional
        Files of head scores that are not in the folder.
    say : callable
        Called with a line for each figure that is left out.
    **sized : float
        ``width`` of all figures in inches, where it is not to be each figure's own.

    Raises
    ------
    FileNotFoundError, ValueError
        As `load_results`.
    """
    cells = load_results(folder)
    drawing = _Drawing(say, sized)
    for ending, rows in _forms(cells):
        _of_scores(drawing, rows, ending, decode, paper)
    _of_allocations(drawing, folder)
    masked = cells[cells["ablation"].notna()]
    if (masked["method"] == "fullkv").any():
        drawing.draw("mask_ablation", mask_ablation, cells[cells["method"] == "fullkv"])
    if others := sorted(set(masked["method"]) - {"fullkv"}):
        say(f"ablations are drawn of FullKV alone, not of {', '.join(others)}")
    comparisons = folder / "comparisons.csv"
    if comparisons.is_file() and set(cells["method"]) >= SPLIT:
        table = pd.read_csv(comparisons)
        plain = table["ablation"].isna() & (table["prompt"] == IMAGE_QUESTION)
        if (plain & (table["compared"] == "method")).any():
            drawing.draw("differences_vs_budget", differences_vs_budget, table[plain])
    _of_head_scores(drawing, cells, folder, heads)
    return drawing.figures


def _forms(cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows that may stand in one figure of scores, FullKV's with each, and what its name ends in."""
    whole = cells[cells["ablation"].isna()]
    full = whole["method"] == "fullkv"
    share = whole["budget"] <= 1
    mixed = share.any() and (whole["budget"] > 1).any()
    for prompt in PROMPTS:
        of_prompt = full | (whole["prompt"] == prompt)
        kinds = [("", ~share), ("_shares", full | share)] if mixed else [("", share | ~share)]
        for kind, of_kind in kinds:
            rows = whole[of_prompt & of_kind]
            alone = prompt == IMAGE_QUESTION and len(rows) == len(cells)
            if rows["budget"].notna().any() or alone:
                yield f"{kind}{ENDINGS[prompt]}", rows


def _of_scores(
    drawing: _Drawing, cells: pd.DataFrame, ending: str, decode: pd.DataFrame | None, paper: bool
) -> None:
    """The figures of scores of one form."""
    groups = _groups(cells)
    main = groups["accuracy_vs_budget"]
    published = published_for(main)
    for name, shown in groups.items():
        marks = published if paper and shown is main and len(published) else None
        drawing.draw(f"{name}{ending}", accuracy_vs_budget, shown, published=marks)
    if main["budget"].isna().all():
        return
    drawing.draw(f"accuracy_vs_realised_budget{ending}", accuracy_vs_realised_budget, main)
    if "accuracy_variants" in groups:
        variants = groups["accuracy_variants"]
        drawing.draw(f"accuracy_variants_realised{ending}", accuracy_vs_realised_budget, variants)
    drawing.draw(f"score_vs_memory{ending}", score_vs_memory, main)
    _of_latencies(drawing, main, ending, decode)
    drawing.draw(f"overall_score{ending}", overall_score, cells)
    if len(published):
        drawing.draw(f"reproduction_delta{ending}", reproduction_delta, main)
    elif paper:
        drawing.leave_out(
            f"reproduction_delta{ending}", f"{SOURCE} has no score of these models, tasks and metrics"
        )


def _groups(cells: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of each figure of accuracy: more than about eight lines cannot be told apart."""
    kind = cells["method"].map(figure_of)
    full = cells["method"] == "fullkv"
    figures = {"accuracy_vs_budget": cells[kind == "main"] if (kind == "main").any() else cells}
    if (kind == "controls").any():
        figures["accuracy_controls"] = cells[full | (kind == "controls") | (cells["method"] == "sparsemm")]
    variants = set(cells.loc[kind == "variants", "method"])
    if variants:
        bases = {name.removesuffix("_released").removesuffix("_original") for name in variants}
        figures["accuracy_variants"] = cells[full | cells["method"].isin(variants | bases)]
    return figures


def _of_latencies(drawing: _Drawing, cells: pd.DataFrame, ending: str, decode: pd.DataFrame | None) -> None:
    name = "score_vs_latency"
    if decode is None:
        return
    found = list(latencies(cells, decode))
    for latency in found:
        device = re.sub(r"\W+", "_", latency.device).strip("_").lower()
        full_name = f"{name}_{device}_batch{latency.batch_size}{ending}"
        drawing.draw(full_name, score_vs_latency, latency)
        if latency.untimed:
            drawing.say(
                f"{full_name} is without {', '.join(latency.untimed)}: no times were measured of them"
            )
    if not found:
        drawing.leave_out(
            f"{name}{ending}",
            "the decode times are not of FullKV and two budgets of these models, whole and in the same dtype",
        )


def _of_allocations(drawing: _Drawing, folder: Path) -> None:
    name = "allocation"
    try:
        allocations = load_allocations(folder)
    except ValueError as error:
        return drawing.leave_out(name, str(error))
    if allocations is None:
        return drawing.leave_out(name, "there is no allocations.parquet: the sweep did not count heads")
    for (model, prompt), rows in allocations.groupby(["model", "prompt"]):
        full = allocations[(allocations["model"] == model) & (allocations["method"] == "fullkv")]
        shown = heatmap_rows(rows if prompt == IMAGE_QUESTION else pd.concat([full, rows]))
        if len(shown):
            drawing.draw(f"{name}_{model}{ENDINGS[str(prompt)]}", allocation_heatmap, shown)


def _of_head_scores(drawing: _Drawing, cells: pd.DataFrame, folder: Path, heads: Sequence[Path]) -> None:
    for label in sorted(cells["head_scores"].dropna().unique()):
        file = find_head_scores(label, folder, heads)
        if file is None:
            drawing.say(f"the head scores {label} {NOT_HERE}: their figure is left out")
            continue
        scores, title = HeadScores.load(file), _title(file, cells)
        drawing.draw(f"head_scores_{file.stem}", head_scores, scores.scores, title=title)
        if len(scores.hits) >= 2 * min(SIZES):
            tables = top_share(scores), rank_agreement(scores)
            drawing.draw(f"head_concentration_{file.stem}", head_concentration, *tables, title=title)


def find_head_scores(label: str, folder: Path, given: Sequence[Path] = ()) -> Path | None:
    """The file that a cell's label ``<name>@<start of its SHA-256>`` means; None if no such file is there.

    Looked at are files that the user names, that lie in the results folder, and that are shipped. What a
    results folder says of others is not heeded: it may come from anywhere, and would have any file read.

    Parameters
    ----------
    label : str
        Of ``cells.csv``.
    folder : Path
        The results folder.
    given : sequence of Path, optional
        What the user named.
    """
    name, _, digest = label.rpartition("@")
    if Path(name).name != name or not digest:
        return None
    own = [folder / name] if is_within(folder / name, folder) else []
    for file in (*given, *own, shipped("results/head_scores") / name):
        if file.is_file() and hashlib.sha256(file.read_bytes()).hexdigest().startswith(digest):
            return file
    return None


def _title(file: Path, cells: pd.DataFrame) -> str:
    """The model's name if the table has one model, else the file's."""
    models = cells["model"].unique()
    return f"head scores of {models[0] if len(models) == 1 else file.stem}"
