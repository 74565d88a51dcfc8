"""CUDA graphs: the launches of one action, captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch


def captured(action: Callable[[], None], device: torch.device, warm_up: int) -> Callable[[], None]:
    """Run an action a few times, capture it, and return what replays it.

    A CPU has no graphs: there the action itself is returned, so that what measures graphs can be tried
    without a GPU.

    Parameters
    ----------
    action
        It works on tensors that stay where they are, and does not wait for the device.
    device
        Where.
    warm_up
        Runs before it is captured, at least one: what a first run sets up must not be part of the graph.
    """
    if device.type != "cuda":
        for _ in range(warm_up):
            action()
        return action
    current = torch.cuda.current_stream(device)
    beside = torch.cuda.Stream(device)  # the default stream cannot be captured, nor warmed up for it
    beside.wait_stream(current)
    with torch.cuda.stream(beside):
        for _ in range(warm_up):
            action()
    current.wait_stream(beside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        action()  # is noted down, not run
    return graph.replay
