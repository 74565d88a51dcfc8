"""Hydra's messages in one line: which option is wrong, which ones there are, and how it is meant."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from sparsemm.cli.given import PARTS, groups_of, not_chosen, own_options
from sparsemm.configs import names, nearest, read


def explain(error: Exception, config_name: str) -> str:
    """What to say of an error of Hydra's or OmegaConf's; `config_name` is the verb's, ``train_tiny``."""
    message = str(error).split("\nSee https://hydra.cc")[0]
    if group := re.search(r"Could not (?:find|load) '((?:hydra/)?\w+)/([^']+)'", message):
        return f"unknown {group[1]} {group[2]!r}; {nearest(group[2], names(group[1]))}"
    if option := re.search(r"Could not override '([^']+)'", message):
        return _no_option(option[1], config_name)
    if merged := re.search(r"Error merging override \+*(\w+)(\S*?)=(.*)", message):
        place, rest, value = merged.groups()
        if place in PARTS and not rest:
            return f"{place} holds the options of what is chosen; choose by {PARTS[place]}={value}"
        return f"{place}{rest} cannot be {value}: it holds options of its own ({place}{rest}.NAME=VALUE)"
    if several := re.search(r"Ambiguous value for argument '([^'=]+)=(.*)'", message):
        name, value = several.groups()
        return (
            f"{name}={value} is several values: a list is {name}=[{value}], one text is "
            f"{_quoted(name, value)}, and -m runs a job for each"
        )
    if override := getattr(error, "override", None):
        return _unreadable(override, message)
    return message


def _unreadable(override: str, message: str) -> str:
    """Of an argument that Hydra's grammar does not take."""
    name, equals, value = override.partition("=")
    if not equals or not name:
        return f"options are NAME=VALUE, got {override!r} ({message.splitlines()[-1]})"
    reason = message.splitlines()[-1].strip(" ^") or "a character that has a meaning of its own"
    return (
        f"cannot read {override!r}: {reason}; a text with such characters stands in quotes inside quotes: "
        f"{_quoted(name, value)}"
    )


def _quoted(name: str, value: str) -> str:
    """How a text is given to Hydra through a shell: ``"output='a=b'"``."""
    inner = value[1:-1] if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"" else value
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + r"\'", inner)
    ends = re.search(r"\\*$", escaped)
    argument = f"{name}='{escaped}{ends[0] if ends else ''}'"
    return shlex.quote(argument) if re.search(r'["$`\\!]', argument) else f'"{argument}"'


def _no_option(option: str, config_name: str) -> str:
    """Of an option that a verb does not have, or not with what was chosen."""
    place, name, *_ = *option.split("."), ""
    known = options(config_name)
    if place in PARTS and option in known:
        return not_chosen(PARTS[place], name)
    having = [one for one in names("benchmark") if option in read("benchmark", one)]
    if option in known and having:
        return f"the chosen benchmark has no option {option!r}: it is one of {' and '.join(having)}"
    return f"{config_name} has no option {option!r}; {nearest(option, known)}"


def options(config_name: str) -> Sequence[str]:
    """What can be set in a verb's configuration, the parameters of methods and models included."""
    groups, own = groups_of(config_name), own_options(config_name)
    if "model" in groups:
        own += [f"model.{key}" for name in names("model") for key in read("model", name)]
    for place, group in PARTS.items():
        if group in groups:
            own += [f"{place}.{name}.{key}" for name in names(group) for key in read(group, name)]
    for group in ("benchmark", "preset"):
        if group in groups:
            own += [key for name in names(group) for key in read(group, name)]
    return [one for one in dict.fromkeys([*groups, *own]) if not one.endswith(".defaults")]
