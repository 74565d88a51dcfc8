"""Where the numbers come from: configuration, versions, commit, and the files that were read."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import yaml

from sparsemm.report.folder import Results


def provenance(results: Results) -> dict[str, Any]:
    """What the page says of its making; no dates and no paths: the same results give the same page."""
    run = results.run
    config = run.get("config")
    shown = yaml.safe_dump(config, allow_unicode=True, sort_keys=False, width=100) if config else ""
    cells = results.cells
    return {
        "config": shown,
        "versions": {str(name): str(held) for name, held in (run.get("versions") or {}).items() if held},
        "git_commit": run.get("git_commit"),
        "schema_version": run.get("schema_version"),
        "devices": sorted({str(name) for name in cells["device"].dropna()}),
        "dtypes": sorted({str(name) for name in cells["dtype"].dropna()}),
        "files": [
            {"name": name, "bytes": size, "sha256": digest}
            for name, (size, digest) in sorted(results.files.items())
        ],
        "derived": results.derived,
        "report_version": version("sparsemm"),
    }
