"""Parameters: budgets in tokens and shares, and one clear line for everything that cannot be."""

import ast
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
import torch

import sparsemm.methods
from sparsemm.methods import AdaKV, FullKV, ModelShape, PyramidKV, RandomHeads, SnapKV, SparseMM, StreamingLLM
from tests.methods.cases import METHODS

SHAPE = ModelShape(3, 4, 2, 8)
NAN = float("nan")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SnapKV(0), "budget must be positive, got 0"),
        (lambda: SnapKV(-3), "budget must be positive"),
        (lambda: SnapKV(31), "budget 31 is smaller than the window, 32"),
        (lambda: SnapKV(0.0), "share"),
        (lambda: SnapKV(1.5), "share"),
        (lambda: SnapKV(64.0), "share"),
        (lambda: SnapKV(NAN), "share"),
        (lambda: SnapKV(-0.5), "share"),
        (lambda: SnapKV(True), "int"),
        (lambda: SnapKV("64"), "int"),  # type: ignore[arg-type]
        (lambda: SnapKV(None), "int"),  # type: ignore[arg-type]
        (lambda: SnapKV(64, window=0), "window must be a positive integer"),
        (lambda: SnapKV(64, window=8.0), "window"),  # type: ignore[arg-type]
        (lambda: SnapKV(64, kernel=4), "kernel must be odd"),
        (lambda: SnapKV(64, kernel=0), "kernel"),
        (lambda: SnapKV(64, pooling="avgpool"), "pooling must be one of 'avg', 'max', got 'avgpool'"),
        (lambda: SnapKV(64, gqa="sum"), "gqa must be one of"),
        (lambda: RandomHeads(64, seed="one"), "seed must be an integer"),  # type: ignore[arg-type]
        (lambda: RandomHeads(64, seed=-1), "seed must be an integer from 0 on, got -1"),
        (lambda: StreamingLLM(64, sinks=0), "sinks must be a positive integer"),
        (lambda: PyramidKV(64, beta=0), "beta"),
        (lambda: PyramidKV(64, rounding="up"), "rounding must be one of"),
        (lambda: AdaKV(64, floor=1.2), "floor"),
        (lambda: AdaKV(64, floor=NAN), "floor"),
        (lambda: AdaKV(64, rounding="up"), "rounding"),
        (lambda: AdaKV(64, normalize="yes"), "normalize"),  # type: ignore[arg-type]
        (lambda: RandomHeads(64, ratio=-0.1), "ratio"),
        (lambda: RandomHeads(64, ratio=True), "ratio"),
        (lambda: RandomHeads(64, overflow="keep"), "overflow must be one of"),
        (lambda: SparseMM(64, [[1.0]], rounding="released"), "only with overflow"),
        (lambda: SparseMM(64, [[1.0]], control="mean"), "control must be one of None, 'layer_mean'"),
        (lambda: SparseMM(16, [[1.0]]), "smaller than the window"),
        (lambda: RandomHeads(64).quotas(torch.empty(1, 2, 9), torch.tensor([9]), 3, SHAPE), "layer 3"),
    ],
)
def test_bad_values_are_refused_in_one_line(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_a_budget_is_tokens_or_a_share_of_the_prompt():
    tokens, share = SnapKV(64), SnapKV(0.25)
    assert [tokens.budget_tokens(length) for length in (10, 100, 1000)] == [64, 64, 64]
    assert [share.budget_tokens(length) for length in (10, 100, 200, 201, 206)] == [32, 32, 50, 50, 52]
    assert SnapKV(1.0).budget_tokens(777) == 777


def test_batched_budgets_are_the_rows_own():
    lengths = torch.arange(0, 400)
    for budget in (40, 0.1, 0.25, 0.333, 0.5, 1.0):
        method = SnapKV(budget, window=8)
        expected = [method.budget_tokens(n + 8) - 8 for n in lengths.tolist()]
        assert method.evictable_budgets(lengths).tolist() == expected


def test_what_is_surely_kept_whole():
    assert SnapKV(64).keeps_all(64)
    assert not SnapKV(64).keeps_all(65)
    assert SnapKV(1.0).keeps_all(500)
    assert not AdaKV(64, rounding="released").keeps_all(64)
    assert AdaKV(64, rounding="released").keeps_all(63)
    assert AdaKV(32, rounding="released").keeps_all(32)  # The window alone is never cut.
    assert FullKV().keeps_all(10**6)


def test_fullkv_takes_no_budget():
    assert not FullKV.evicts
    assert SnapKV.evicts
    with pytest.raises(TypeError):
        FullKV(64)  # type: ignore[call-arg]
    assert FullKV().budget_tokens(123) == 123


def test_methods_are_frozen_and_hashable():
    for factory in METHODS.values():
        method = factory(64, 8, SHAPE)
        assert isinstance(hash(method), int)
        with pytest.raises(FrozenInstanceError):
            method.budget = 3  # type: ignore[misc]


def test_config_names():
    names = [method.name for method in (FullKV, SnapKV, PyramidKV, AdaKV, SparseMM, RandomHeads)]
    assert names == ["fullkv", "snapkv", "pyramidkv", "adakv", "sparsemm", "random"]
    assert set(names) <= set(METHODS)


def test_methods_need_only_torch():
    folder = Path(sparsemm.methods.__file__).parent
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                own = module.startswith("sparsemm.methods")
                assert own or module.split(".")[0] in {"torch", *STANDARD}, f"{file.name} imports {module}"


STANDARD = {"__future__", "abc", "collections", "dataclasses", "typing", "math", "pkgutil"}
