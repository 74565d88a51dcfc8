"""What was given on the command line, against what a verb heeds: nothing that is given is ignored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml

from sparsemm.configs import EMBEDDED, InputError, names, nearest, own_model, read, refuse_idle, shipped

PARTS = {"methods": "method", "ablations": "ablation", "tasks": "task"}
"""Where the options of chosen names stand, and the group that chooses them."""


def given(overrides: Iterable[str]) -> dict[str, str]:
    """Options that are set, and to what: ``["+a.b=1", "c={d: 2}", "~e"]`` -> ``{"a.b": "1", "c.d": "2"}``.

    What is set to null says nothing.
    """
    found: dict[str, str] = {}
    for key, _, value in (one.lstrip("+").partition("=") for one in overrides if one[:1] not in ("~", "-")):
        if value.startswith("{") and isinstance(parts := _parts(value), dict):
            found |= {f"{key}.{name}": str(part) for name, part in parts.items()}
        elif value not in ("", "null"):
            found[key.partition("@")[0]] = value
    return found


def _parts(value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return None


def own_checkpoint(config: Any, chosen: Mapping[str, Any], overrides: Iterable[str]) -> None:
    """Make another checkpoint in the place of the embedded one a model of its own, with its own settings.

    In the place of a hub's checkpoint it is taken for that one, lying elsewhere: name and settings stay.

    Parameters
    ----------
    config : DictConfig
        Composed, and not resolved: what refers to the model's name follows it. It is changed.
    chosen : mapping
        Names that were chosen, by group.
    overrides : iterable of str
        What they set stays as it is.
    """
    if chosen.get("model") not in (EMBEDDED, [EMBEDDED]) or not config.get("model"):
        return
    pretrained = config.model.get("pretrained")
    if not isinstance(pretrained, str) or pretrained in (EMBEDDED, ""):
        return
    usual, set_here = read("model", EMBEDDED), given(overrides)
    for name, value in own_model(pretrained).items():
        if f"model.{name}" not in set_here and config.model.get(name) == usual[name]:
            config.model[name] = value


def check_names(verb: str, config: Mapping[str, Any]) -> None:
    """Refuse options that the verb does not have: Hydra lets ``+name=value`` and one's own files add any.

    Parameters
    ----------
    verb : str
        Name of the verb's configuration, ``train_tiny``.
    config : mapping
        Resolved.

    Raises
    ------
    InputError
        The nearest options that there are; or a name that has options, and was not chosen.
    """
    groups = groups_of(verb)
    places = [place for place, group in PARTS.items() if group in groups]
    for place in places:
        _check_chosen(place, PARTS[place], config.get(place))
    known = [*own_options(verb), *places]
    known += ["model"] if "model" in groups else []
    for group in ("benchmark", "preset"):
        if group in groups and (chosen := config.get(group)) in names(group):
            known += read(group, str(chosen))
    if verb == "train_tiny":
        known += own_fields()
    _refuse_unknown(verb, "", config, known)
    if isinstance(model := config.get("model"), Mapping):
        _refuse_unknown(
            verb, "model.", model, [key for name in names("model") for key in read("model", name)]
        )
    for task, options in (config.get("tasks") or {}).items():
        files = [read("task", task)] if task in names("task") else map(read_task, names("task"))
        _refuse_unknown(verb, f"tasks.{task}.", options, [key for file in files for key in file])


def own_fields() -> list[str]:
    """Options of a training, those included that no file names."""
    from sparsemm.tiny.recipe import TrainConfig

    return [field.name for field in dataclasses.fields(TrainConfig)]


def read_task(name: str) -> dict[str, Any]:
    """A file of ``task/``; of one that is a list of tasks, nothing."""
    return {key: value for key, value in read("task", name).items() if key != "defaults"}


def _check_chosen(place: str, group: str, held: Any) -> None:
    """Look whether all that stands in `place` was chosen by its group, which brings its ``_target_``."""
    if held is None:
        return
    if not isinstance(held, Mapping):
        raise InputError(f"{place} holds the options of what is chosen; choose by {group}=[…], got {held!r}")
    for name, options in held.items():
        if not isinstance(options, Mapping):
            raise InputError(f"{place}.{name} holds options, got {options!r}; choose by {group}=[…]")
        mark = "metric" if group == "task" else "_target_"
        if mark not in options and name in names(group):
            raise InputError(not_chosen(group, name))


def check_parts(verb: str, overrides: Iterable[str]) -> None:
    """Refuse ``budget.x=1``, a part of an option that has none: OmegaConf would take it for a list's index.

    Raises
    ------
    InputError
        One line that names the option.
    """
    plain = {key for key, value in _file(verb).items() if key != "hydra" and not isinstance(value, dict)}
    for name in given(overrides):
        if "." in name and name.partition(".")[0] in plain and name not in plain:
            raise InputError(f"{verb} has no option {name!r}; did you mean {name.partition('.')[0]}?")


def not_chosen(group: str, name: str) -> str:
    """What to say of an option of something that is there, but was not chosen."""
    return f"{group} {name} is not chosen: add it ({group}=[{name}])"


def _refuse_unknown(verb: str, prefix: str, held: Mapping[str, Any], known: Sequence[str]) -> None:
    for key in held:
        if key not in known:
            near = nearest(key, dict.fromkeys(known))
            raise InputError(f"{verb} has no option {f'{prefix}{key}'!r}; {near}")


def own_options(verb: str) -> list[str]:
    """Options in a verb's own file."""
    return [key for key in _file(verb) if key not in ("defaults", "hydra")]


def groups_of(verb: str) -> list[str]:
    """Groups that a verb's own file chooses from."""
    return [key for default in _file(verb)["defaults"] if isinstance(default, dict) for key in default]


def _file(verb: str) -> dict[str, Any]:
    return yaml.safe_load((shipped("eval_configs") / f"{verb}.yaml").read_text(encoding="utf-8"))


def check_effect(
    overrides: Iterable[str], configs: Sequence[Mapping[str, Any]], idle: Callable[[Mapping[str, Any]], Any]
) -> None:
    """Refuse an option that has an effect in none of a command's jobs.

    Parameters
    ----------
    overrides : iterable of str
    configs : sequence of mapping
        Each job's configuration, resolved.
    idle : callable
        Options without an effect in a configuration, and why.

    Raises
    ------
    InputError
        One line.
    """
    first, *others = map(idle, configs)
    common = {name: why for name, why in first.items() if all(name in other for other in others)}
    set_here = given(overrides)
    if "output" in set_here and "${name}" not in set_here["output"]:
        common["name"] = "it names the results folder, and so does output"
    refuse_idle(set_here, common)
