"""JSON inside HTML: no text of a model or data set can end its element or start another."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from markupsafe import Markup

_UNSAFE = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}


def script_json(value: Any) -> Markup:
    """JSON for a ``<script type="application/json">``: ``<``, ``>``, ``&``, U+2028 and U+2029 are escaped.

    These characters can stand in JSON only inside strings, where their escaped forms mean the same. Text that
    is not valid Unicode (lone surrogates) is escaped, too.

    Raises
    ------
    ValueError
        If a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(text.translate(_UNSAFE))


def content_security_policy(scripts: list[str], *, live: bool) -> str:
    """The page's policy: it runs these scripts alone, and asks nothing of any network.

    Parameters
    ----------
    scripts : list of str
        The texts of the inline scripts, to the character.
    live : bool
        Whether the page asks its own server for news.
    """
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    rules = {
        "default-src": "'none'",
        "script-src": " ".join(f"'sha256-{digest}'" for digest in digests),
        "style-src": "'unsafe-inline'",  # Plotly sets styles
        "img-src": "data: blob:",
        "connect-src": "'self'" if live else "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in rules.items())
