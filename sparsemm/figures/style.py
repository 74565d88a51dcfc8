"""One look for all figures: paper sizes, embedded fonts, and the same colour for a method everywhere.

Colours are those of Okabe and Ito (2008, "Color Universal Design"), which stay apart under the common colour
vision deficiencies; every method also has a marker of its own, so that the lines survive a grey print.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

COLUMN_WIDTH = 3.35
"""Inches: one column of a two-column paper."""

FULL_WIDTH = 6.9
"""Inches: both columns of a two-column paper."""

NARROW = 5.0
"""Inches: narrower figures stand panels one above the other that else stand side by side."""

WIDTHS: Mapping[str, float] = MappingProxyType({"column": COLUMN_WIDTH, "full": FULL_WIDTH})
"""Widths by the names that ``sparsemm figures --width`` takes."""

RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.dpi": 150,
    "savefig.dpi": 300,
    "pdf.fonttype": 42,  # TrueType: embedded, and text stays text
    "ps.fonttype": 42,
}
"""matplotlib settings; every figure is built and saved under ``matplotlib.rc_context(RC)``."""

_BLACK, _ORANGE, _SKY, _GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
_BLUE, _VERMILION, _PURPLE, _GREY = "#0072B2", "#D55E00", "#CC79A7", "#767676"


@dataclass(frozen=True)
class MethodStyle:
    """How a method's line is drawn.

    Attributes
    ----------
    label : str
        Name in legends.
    color : str
        Colour of line and marker.
    marker : str
        matplotlib marker.
    linestyle : str
        Solid; dotted for the released code's variants, dashed for what has no budget.
    filled : bool
        Whether the marker is filled; hollow marks variants of the method that owns the colour.
    """

    label: str
    color: str
    marker: str
    linestyle: str = "-"
    filled: bool = True

    def line(self) -> dict[str, Any]:
        """Keyword arguments of ``Axes.plot``."""
        return {
            "label": self.label,
            "color": self.color,
            "marker": self.marker,
            "linestyle": self.linestyle,
            "markerfacecolor": self.color if self.filled else "white",
        }


METHOD_STYLES: Mapping[str, MethodStyle] = MappingProxyType(
    {
        "fullkv": MethodStyle("FullKV", _BLACK, "", "--"),
        "streaming_llm": MethodStyle("StreamingLLM", _SKY, "p"),
        "snapkv": MethodStyle("SnapKV", _BLUE, "o"),
        "pyramidkv": MethodStyle("PyramidKV", _GREEN, "^"),
        "adakv": MethodStyle("AdaKV", _ORANGE, "s"),
        "adakv_original": MethodStyle("AdaKV (original)", _ORANGE, "p", filled=False),
        "sparsemm": MethodStyle("SparseMM", _VERMILION, "D"),
        "sparsemm_layer_mean": MethodStyle("SparseMM, layer means", _PURPLE, "v"),
        "sparsemm_shuffled": MethodStyle("SparseMM, shuffled", _PURPLE, "P", filled=False),
        "sparsemm_flat": MethodStyle("SparseMM, flat", _SKY, "d"),
        "random": MethodStyle("Random", _GREY, "X"),
    }
)
"""Styles by configuration name, in the order of legends. ``<method>_released`` follows its method, dotted."""

METRIC_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "anls": "ANLS, 0–1",
        "ocrbench_accuracy": "accuracy, 0–1",
        "relaxed_overall": "relaxed acc., 0–1",
        "exact_match": "accuracy, 0–1",
        "textcaps_CIDEr": "CIDEr, 0–10",
        "gpt_eval_score": "accuracy, %",
        "mme_perception_score": "perception, 0–2000",
    }
)
"""What a metric is called in titles, with its unit."""


def legend_columns(labels: Sequence[str], width: float) -> int:
    """In how many columns a legend fits `width` inches: a handle and about 0.06 inches a letter each."""
    return min(len(labels), max(1, int(width / (0.5 + 0.06 * max(map(len, labels))))))


def metric_label(metric: str) -> str:
    """Name of a metric in titles, with its unit where it is known here."""
    return METRIC_LABELS.get(metric, metric)


def published_mark(color: str) -> dict[str, Any]:
    """Keyword arguments of ``Axes.plot`` for published points: stars in the method's colour, no line."""
    return {
        "color": color,
        "marker": "*",
        "markersize": 7,
        "markerfacecolor": "white",
        "markeredgewidth": 0.8,
        "linestyle": "",
        "zorder": 5,
    }


_FALLBACK = tuple((color, marker) for marker in "<>h*H8" for color in (_SKY, _PURPLE, _GREY, _GREEN, _BLUE))


def method_style(name: str) -> MethodStyle:
    """Style of a method by its configuration name; a method unknown here gets one derived from its name.

    Parameters
    ----------
    name : str
        Name of the method's configuration, for example ``adakv_released``.
    """
    if name in METHOD_STYLES:
        return METHOD_STYLES[name]
    base = name.removesuffix("_released")
    if base != name:
        style = method_style(base)
        return replace(style, label=f"{style.label} (released)", linestyle=":", filled=False)
    color, marker = _FALLBACK[zlib.crc32(name.encode()) % len(_FALLBACK)]
    return MethodStyle(name, color, marker)


def legend_order(name: str) -> tuple[int, str]:
    """Sorting key of methods: as in `METHOD_STYLES`, released variants behind their method, others last."""
    names = list(METHOD_STYLES)
    base = name if name in METHOD_STYLES else name.removesuffix("_released")
    return (names.index(base) if base in names else len(names), name)


def figure_of(name: str) -> str:
    """Which figure of accuracy a method's line is drawn in: ``main``, ``controls`` or ``variants``."""
    if name.endswith(("_released", "_original")):
        return "variants"
    return "controls" if name in METHOD_STYLES and name.startswith("sparsemm_") else "main"
