"""What ``--model_args`` and the launcher say to the chat model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from accelerate import Accelerator
from lmms_eval.utils import _smart_comma_split, handle_arg_string, simple_parse_args_string
from loguru import logger

from sparsemm.configs import InputError, nearest, read
from sparsemm.evaluation.methods import build_method
from sparsemm.methods import KVMethod


def parse(arg_string: str) -> dict[str, Any]:
    """The names and values of ``--model_args``, as lmms-eval reads them, without quotes.

    Raises
    ------
    InputError
        No such pairs, one without a value, or two of one name, of which lmms-eval would take the last.
    """
    try:
        given = simple_parse_args_string(arg_string)
    except ValueError:
        raise InputError(f"--model_args are NAME=VALUE,NAME=VALUE, got {arg_string!r}") from None
    written = [one.partition("=")[0] for one in _smart_comma_split(arg_string)]
    for name, value in given.items():
        if value == "":
            raise InputError(f"{name} has no value ({name}=VALUE)")
        if written.count(name) > 1:
            raise InputError(f"{name} is given twice in --model_args")
    return {
        name: handle_arg_string(value[1:-1])
        if isinstance(value, str) and len(value) > 1 and value[0] == value[-1] in "'\""
        else value
        for name, value in given.items()
    }


def method_by_name(name: str, changes: dict[str, Any], known: Sequence[str], **values: Any) -> KVMethod:
    """The method of a file in ``eval_configs/method`` with some parameters changed.

    Parameters
    ----------
    name : str
    changes : dict
        Parameters of the method.
    known : sequence of str
        What else could have been meant by a name that is no parameter.
    **values
        As `build_method` takes them.

    Raises
    ------
    InputError
        Unknown name, missing or wrong value.
    """
    parameters = read("method", name)
    own = [parameter for parameter in parameters if parameter != "_target_"]
    for change in changes:
        if change not in own:
            raise InputError(f"unknown argument {change!r}; {nearest(change, [*known, *own])}")
    try:
        return build_method({**parameters, **changes}, **values)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"method {name}: {error}") from error


def idle_arguments(method: KVMethod, name: str, model: Mapping[str, Any]) -> dict[str, str]:
    """Arguments without an effect, and why: a method's own, and those of its model.

    Parameters
    ----------
    method : KVMethod
    name : str
        Of its configuration.
    model : mapping
        A file of ``eval_configs/model``.
    """
    idle: dict[str, str] = {}
    if not method.evicts:
        why = f"{name} evicts nothing; choose a method that does (method=snapkv)"
        idle |= dict.fromkeys(("budget", "window", "prompt", "backend"), why)
    if not hasattr(method, "head_scores"):
        idle["head_scores"] = f"{name} uses none"
    if model.get("device_map"):
        idle["device"] = "the model's device_map says where it is"
    return idle


def own_device(accelerator: Accelerator, asked: str | None) -> str | None:
    """The device of this process: what was asked for, or among several processes its own.

    Raises
    ------
    InputError
        If another one was asked for than accelerate gives this process.
    """
    if accelerator.num_processes == 1:
        _warn_of_lone_process()
        return asked
    own = accelerator.device
    if asked not in (None, own.type, str(own)):
        raise InputError(
            f"device {asked!r} cannot be used: accelerate gives {own} to this process, one of "
            f"{accelerator.num_processes}; leave the device out (ACCELERATE_USE_CPU=true: all on the CPU)"
        )
    return str(own)


def _warn_of_lone_process() -> None:
    """``accelerate launch --cpu --num_processes N`` starts one process and tells it where N would meet."""
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if launched and "WORLD_SIZE" not in os.environ:
        logger.warning(
            "accelerate started one process, whatever its --num_processes; on CPUs several are started by "
            "ACCELERATE_USE_CPU=true python -m torch.distributed.run --nproc_per_node N -m lmms_eval"
        )


def positive(name: str, value: int | str) -> int:
    """Return a positive integer given as such or as a text, or raise `InputError`."""
    if not str(value).isdigit() or int(value) < 1:
        raise InputError(f"{name} must be a positive integer, got {value!r}")
    return int(value)
