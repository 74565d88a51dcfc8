"""``sparsemm train-tiny`` without Hydra, for a bare machine: ``python -m sparsemm.tiny [OPTION=VALUE]``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

import yaml

from sparsemm.configs import InputError, nearest, read
from sparsemm.tiny.recipe import TrainConfig
from sparsemm.tiny.training import train


def configuration(arguments: Sequence[str]) -> TrainConfig:
    """What ``sparsemm train-tiny`` would compose: a preset, and options of `TrainConfig` over it.

    Raises
    ------
    InputError
        Unknown preset or option, with the nearest known ones.
    """
    options = {name: yaml.safe_load(value) for name, _, value in (word.partition("=") for word in arguments)}
    config = read("preset", str(options.pop("preset", "tiny")))
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    for name in options:
        if name not in known:
            raise InputError(f"train-tiny has no option {name!r}; {nearest(name, known)}")
    return TrainConfig(**{"output": f"outputs/{config['preset']}", **config, **options})


def main(arguments: Sequence[str]) -> int:
    """Train, or resume, and print the checkpoint's folder."""
    try:
        print(train(configuration(arguments)))
    except (ValueError, OSError) as error:
        print(f"sparsemm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
