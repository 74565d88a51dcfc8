"""Pages with text, forms, tables, charts, signs, prose, and a box for every word: the only generator."""

from sparsemm.documents.fonts import HELD_OUT_FONT, SEEN_FONTS
from sparsemm.documents.page import GRIDS, KINDS, VERSION, Page, make_page
from sparsemm.documents.question import Question
from sparsemm.documents.running import RUNNING_VERSION, RunningPage, make_running_page
from sparsemm.documents.sheet import Word

__all__ = [
    "GRIDS",
    "HELD_OUT_FONT",
    "KINDS",
    "RUNNING_VERSION",
    "SEEN_FONTS",
    "VERSION",
    "Page",
    "Question",
    "RunningPage",
    "Word",
    "make_page",
    "make_running_page",
]
