"""Pages with text, forms and tables, and a box for every word: the project's only generator."""

from sparsemm.documents.fonts import HELD_OUT_FONT, SEEN_FONTS
from sparsemm.documents.page import VERSION, Page, Word, make_page

__all__ = ["HELD_OUT_FONT", "SEEN_FONTS", "VERSION", "Page", "Word", "make_page"]
