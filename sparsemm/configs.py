"""Where the configuration tree is, and which names it holds.

The files of ``model/``, ``task/`` and ``method/`` are plain YAML, so that lmms-eval's command line, which
knows no Hydra, reads the same defaults as a sweep.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent

EMBEDDED = "tiny"
"""The model that ships with the package, and what a command runs on if nothing else is said."""


class InputError(ValueError):
    """What the user gave is wrong. The message is one line: what is wrong, and what would be right."""


class FromEnvironment(str):
    """A text that came from the environment: it is used, and where a configuration is recorded left out."""

    written: str
    """What stands in its place, ``${oc.env:NAME}``."""

    @classmethod
    def of(cls, value: Any, written: str) -> Any:
        """A text, or all texts in a value, marked."""
        if isinstance(value, dict):
            return {key: cls.of(held, written) for key, held in value.items()}
        if isinstance(value, list):
            return [cls.of(held, written) for held in value]
        if not isinstance(value, str):
            return value
        marked = cls(value)
        marked.written = written
        return marked


def recorded(value: Any) -> Any:
    """A configuration as it may be written down: without the texts that came from the environment."""
    if isinstance(value, FromEnvironment):
        return value.written
    if isinstance(value, Mapping):
        return {key: recorded(held) for key, held in value.items()}
    return [recorded(held) for held in value] if isinstance(value, list | tuple) else value


def shipped(relative: str | Path) -> Path:
    """Path of a file or folder that comes with the project: inside the installed package, else in the clone.

    Raises
    ------
    FileNotFoundError
        If it is in neither place.
    """
    for root in (PACKAGE, PACKAGE.parent):
        if (path := root / relative).exists():
            return path
    raise FileNotFoundError(f"{relative} is neither in {PACKAGE} nor in {PACKAGE.parent}")


def given_or_shipped(path: str | Path) -> Path:
    """A path as the user gave it if that exists (relative to the working directory), else the shipped file.

    Raises
    ------
    InputError
        If there is no such file.
    """
    if Path(path).exists():
        return Path(path)
    try:
        return shipped(path)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None


def check_ordinary(path: Path) -> None:
    """Raise ``ValueError`` for a pipe, a socket or a device, which would be waited for, or read, for ever."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError("it is neither a file nor a folder")


def output_folder(value: object) -> Path:
    """The folder that the option ``output`` names, which is there or can be made.

    Raises
    ------
    InputError
        It names none, or a file stands in its way.
    """
    if not isinstance(value, str) or not value:
        raise InputError(f"output must name a folder, got {value!r}")
    folder = Path(value)
    for path in (folder, *folder.parents):
        if path.exists():
            if not path.is_dir():
                raise InputError(f"output={value}: {path} is no folder; name another")
            break
    return folder


def is_within(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, is in a folder: what data name is opened only if it is."""
    return path.resolve().is_relative_to(folder.resolve())


def names(group: str) -> list[str]:
    """Names of the configurations in a group of the tree, sorted: ``names("method")``."""
    return sorted(path.stem for path in (shipped("eval_configs") / group).glob("*.yaml"))


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: the known names closest to a wrong one, or all if none is close."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(known)}"


def read(group: str, name: str) -> dict[str, Any]:
    """One configuration of the tree as a dictionary: ``read("method", "snapkv")``.

    Raises
    ------
    InputError
        Unknown name; the nearest ones are given.
    """
    if name not in (known := names(group)):
        raise InputError(f"unknown {group} {name!r}; {nearest(name, known)}")
    import yaml  # here, because rooms that read no configuration shall do without it

    return yaml.safe_load((shipped("eval_configs") / group / f"{name}.yaml").read_text(encoding="utf-8"))


def own_model(pretrained: str) -> dict[str, Any]:
    """The settings of a checkpoint that no file of ``model/`` describes, named after its folder.

    They are the embedded model's, without what was chosen for its weights: the number format is the
    checkpoint's own, the window the released code's, and no head scores were measured.
    """
    path = Path(pretrained)
    name = path.resolve().name if path.name in ("", "..") else path.name
    own = {"name": name, "pretrained": pretrained, "dtype": "auto", "window": 32, "head_scores": None}
    return {**read("model", EMBEDDED), **own}


def refuse_idle(given: Iterable[str], idle: Mapping[str, str]) -> None:
    """Refuse the first of the given options that changes nothing.

    Parameters
    ----------
    given : iterable of str
        Names, such as ``model.window``.
    idle : mapping
        Options without an effect -> why; ``model`` stands for all of its options.

    Raises
    ------
    InputError
        One line.
    """
    for name in given:
        for option, why in idle.items():
            if name == option or name.startswith(f"{option}."):
                raise InputError(f"{name} has no effect: {why}")


def summary(group: str, name: str) -> str:
    """The first comment of a configuration file that is not Hydra's own: what it is, in one line."""
    text = (shipped("eval_configs") / group / f"{name}.yaml").read_text(encoding="utf-8")
    comments = (line[1:].strip() for line in text.splitlines() if line.startswith("#"))
    return next((line for line in comments if not line.startswith("@")), "")
