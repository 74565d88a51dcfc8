"""An untrained checkpoint of the embedded shape, written once."""

import pytest

from sparsemm.tiny import build


@pytest.fixture(scope="session")
def untrained(tmp_path_factory):
    path = tmp_path_factory.mktemp("untrained")
    build(path)
    return path
