"""Documents: pages with text, forms and tables, and a box for every word. The only generator of the project."""

from sparsemm.documents.fonts import HELD_OUT_FONT, SEEN_FONTS
from sparsemm.documents.page import VERSION, Page, Word, make_page

__all__ = ["HELD_OUT_FONT", "SEEN_FONTS", "VERSION", "Page", "Word", "make_page"]
