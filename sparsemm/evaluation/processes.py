"""Data parallel: processes started together share a sweep's documents.

Torch is imported where it is used: who looks at jobs needs none.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

PATIENCE = timedelta(days=7)
"""How long processes wait for each other: the slowest may be hours behind."""


@dataclass(frozen=True)
class Processes:
    """One process among those started together (``torch.distributed.run``, ``torchrun``, or by Slurm).

    Attributes
    ----------
    rank, count : int
    job : str or None
        Shared by these processes and by no others; None if there is one process.
    """

    rank: int
    count: int
    job: str | None

    def share(self, batches: list) -> list:
        """Those of the batches that this process answers."""
        return batches[self.rank :: self.count]

    def wait(self) -> None:
        """Return when all processes have come here.

        Raises
        ------
        OSError
            One of them is no more.
        """
        if self.count > 1:
            from torch import distributed

            try:
                distributed.barrier()
            except RuntimeError as error:
                raise OSError(
                    "another process of the same job has ended; what was answered is kept"
                ) from error


def join_scheduler() -> int:
    """Make processes that Slurm (or submitit's local executor) started together known to `processes`.

    Returns
    -------
    int
        This process's rank; 0 if it is alone.
    """
    if os.environ.get("SUBMITIT_EXECUTOR"):
        from submitit import JobEnvironment
        from submitit.helpers import TorchDistributedEnvironment

        if JobEnvironment().num_tasks > 1:
            TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return int(os.environ.get("RANK", "0"))


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that were started together; alone without them."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        yield Processes(0, 1, None)
        return
    from torch import distributed

    # gloo: only names and signals are exchanged, never tensors of the model.
    distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        job = [uuid.uuid4().hex]
        distributed.broadcast_object_list(job, src=0)
        yield Processes(distributed.get_rank(), count, job[0])
    finally:
        distributed.destroy_process_group()


def device_of(chosen: str | None) -> str:
    """The device that was asked for, ``cuda`` being this process's GPU; by default that or ``cpu``."""
    import torch

    from sparsemm.models.loading import default_device

    device, local = chosen or default_device(), os.environ.get("LOCAL_RANK")
    if device != "cuda" or local is None:
        return device
    # Slurm may show each process its own GPU alone: that is number 0 then.
    return f"cuda:{int(local) % max(1, torch.cuda.device_count())}"
