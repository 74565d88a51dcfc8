"""What is noted of logits that have no largest one."""

import torch

from sparsemm.cache.greedy import FiniteLogits

END = [3, 7]


def test_steps_count_until_their_row_ends() -> None:
    """Rows: finite; lost at once; lost before its end; ended, then lost; lost in the step that ends it."""
    prompt = torch.tensor([[1, 7]] * 5)  # an end token of the prompt ends nothing
    chosen = torch.tensor([[4, 4, 4], [4, 4, 4], [4, 4, 7], [3, 0, 0], [4, 7, 0]])
    nan = torch.tensor([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [0, 1, 0, 0]]).bool()
    finite = FiniteLogits(END)
    for step in range(4):
        logits = torch.zeros(5, 9)
        logits[:, 8] = -torch.inf  # a hidden token is no fault
        logits[nan[:, step], 2] = torch.nan
        assert finite(torch.cat([prompt, chosen[:, :step]], dim=1), logits) is logits
    assert finite.lost is not None
    assert finite.lost.tolist() == [False, True, True, False, True]


def test_rows_without_an_end_count_to_the_last_step() -> None:
    finite = FiniteLogits()
    for step in range(3):
        finite(torch.full((1, 2 + step), 7), torch.full((1, 9), torch.nan if step == 2 else 0.0))
    assert finite.lost is not None
    assert finite.lost.tolist() == [True]
