"""The GPU's programme: what decides, in one command of some minutes, in order of worth."""

from collections.abc import Mapping
from typing import Any

from sparsemm.efficiency import Measured, Report


def run(config: Mapping[str, Any], report: Report) -> Measured:
    """See `programme.run`."""
    from sparsemm.efficiency.gpu import programme

    return programme.run(config, report)
