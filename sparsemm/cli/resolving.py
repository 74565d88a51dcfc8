"""From Hydra's configuration to plain values: nothing lacks, and what the environment said is marked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from sparsemm.configs import FromEnvironment, InputError, names, read, shipped


def resolve(verb: str, config: DictConfig) -> dict[str, Any]:
    """The values of a verb's composed configuration.

    Parameters
    ----------
    verb : str
        Name of its file, ``train_tiny``.
    config : DictConfig

    Returns
    -------
    dict
        Texts that came from the environment (``${oc.env:NAME}``) are `FromEnvironment`.

    Raises
    ------
    InputError
        A value that cannot be resolved, or an option that was taken out (``~budget``).
    """
    try:
        values: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        with _environment_refused():
            _mark(config, values)
    except OmegaConfBaseException as error:
        where = f"{error.full_key}: " if error.full_key else ""
        raise InputError(f"{where}{str(error).splitlines()[0]}") from error
    except RecursionError:
        raise InputError("the configuration refers to itself, or is nested too deeply") from None
    _check_whole(verb, values)
    return values


class _Refused(Exception):
    """The environment was asked."""


@contextmanager
def _environment_refused() -> Iterator[None]:
    """Let every value fail that comes from the environment, on whatever way."""

    def refuse(*_: Any) -> None:
        raise _Refused

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


def _mark(node: Any, values: Any) -> None:
    """Mark, in place, the texts of `values` that `node` cannot give without the environment."""
    written: Any = OmegaConf.to_container(node, resolve=False)
    for key in range(len(values)) if isinstance(values, list) else list(values):
        value = values[key]
        if isinstance(value, dict | list):
            try:
                _mark(node[key], value)
            except OmegaConfBaseException:  # all of it came from the environment
                values[key] = FromEnvironment.of(value, str(written[key]))
        elif isinstance(value, str) and OmegaConf.is_interpolation(node, key):
            try:
                node[key]
            except OmegaConfBaseException:
                values[key] = FromEnvironment.of(value, str(written[key]))


def _check_whole(verb: str, values: Mapping[str, Any]) -> None:
    """Refuse a configuration from which an option was taken out.

    Raises
    ------
    InputError
        One line that names it.
    """
    file = yaml.safe_load((shipped("eval_configs") / f"{verb}.yaml").read_text(encoding="utf-8"))
    groups = [group for default in file["defaults"] if isinstance(default, dict) for group in default]
    needed = [name for name in file if name not in ("defaults", "hydra")]
    for group in ("model", "benchmark", "preset"):
        needed += [group] if group in groups else []
    for group in ("benchmark", "preset"):
        if values.get(group) in names(group):
            needed += read(group, values[group])
    parts: dict[str, Any] = {"": (values, needed)}
    if isinstance(model := values.get("model"), dict):
        parts["model."] = (model, read("model", "tiny"))
    for task, options in (values.get("tasks") or {}).items():
        if task in names("task") and isinstance(options, dict):
            parts[f"tasks.{task}."] = (options, read("task", task))
    for place, (held, keys) in parts.items():
        for name in keys:
            if name not in held:
                raise InputError(f"the option {place}{name} is needed: it can be set, but not taken out")
