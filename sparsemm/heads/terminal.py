"""What ``sparsemm overlap`` shows on a terminal."""

from __future__ import annotations

from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table


def print_overlap(table: pd.DataFrame, console: Console) -> None:
    """A row for each number of top heads: how many are common, with interval and chance."""
    shown = Table("top heads", "of all", "common", "share", "95% interval", "by chance", box=None)
    rows: Any = table.itertuples()
    for row in rows:
        interval = "" if pd.isna(row.ci_low) else f"[{row.ci_low:.1%}, {row.ci_high:.1%}]"
        share, chance = f"{row.common_share:.1%}", f"{row.chance:.1%}"
        shown.add_row(f"{row.heads}", f"{row.heads_share:.1%}", f"{row.common}", share, interval, chance)
    console.print(shown)
