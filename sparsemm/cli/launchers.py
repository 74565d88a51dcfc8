"""Which arguments ask for a multirun, and whether the launcher that they name can be had."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from sparsemm.configs import InputError, names, nearest

MULTIRUN = ("-m", "--multirun")

PLUGINS = {
    "slurm": "hydra_submitit_launcher",
    "local": "hydra_submitit_launcher",
    "ray": "hydra_ray_launcher",
    "joblib": "hydra_joblib_launcher",
}
"""The plugin of Hydra that each file of ``eval_configs/hydra/launcher`` needs."""

EXTRAS = {"hydra_submitit_launcher": "slurm", "hydra_ray_launcher": "ray", "hydra_joblib_launcher": "joblib"}
"""What ``pip install 'sparsemm[…]'`` must name for it."""


def is_multirun(arguments: Sequence[str]) -> bool:
    """Whether these run a multirun, and are none of Hydra's questions (``--cfg``, ``--help``)."""
    flags = {one for one in arguments if one.startswith("-")}
    return bool(flags) and flags <= set(MULTIRUN)


def check_launcher(arguments: Sequence[str]) -> None:
    """Look whether the launcher that is asked for will run.

    Raises
    ------
    InputError
        It is not known, not installed, or without ``-m``: Hydra would not heed it.
    """
    chosen = [one.partition("=")[2] for one in arguments if one.startswith("hydra/launcher=")]
    for name in chosen:
        if name not in PLUGINS and not name.startswith(("basic", "submitit_")):
            known = names("hydra/launcher")
            raise InputError(f"unknown launcher {name!r}; {nearest(name, known)}")
        if (plugin := PLUGINS.get(name)) and not _is_installed(f"hydra_plugins.{plugin}"):
            raise InputError(
                f"hydra/launcher={name} needs {plugin}: pip install 'sparsemm[{EXTRAS[plugin]}]'"
            )
    if chosen and not any(one.startswith("-") for one in arguments):
        raise InputError("a launcher runs the jobs of a multirun: add -m (sparsemm sweep -m …)")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package around it
        return False
