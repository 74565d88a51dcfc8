"""Verbs that run something: Hydra composes ``eval_configs/<verb>.yaml``, and a function of theirs gets it."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparsemm.cli.launchers import MULTIRUN, check_launcher, is_multirun
from sparsemm.configs import InputError, names, nearest, read, shipped

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from sparsemm.evaluation.jobs import Launch


def sweep(config: dict[str, Any]) -> Any:
    """``sparsemm sweep``."""
    from sparsemm.evaluation.sweep import run

    return run(config)


def heads(config: dict[str, Any]) -> Any:
    """``sparsemm heads``."""
    from sparsemm.heads.identify import run

    return run(config)


def train_tiny(config: dict[str, Any]) -> Any:
    """``sparsemm train-tiny``."""
    from sparsemm.tiny.recipe import TrainConfig
    from sparsemm.tiny.training import train

    return train(TrainConfig(**config))


def efficiency(config: dict[str, Any]) -> Any:
    """``sparsemm efficiency``."""
    from rich.console import Console

    from sparsemm.efficiency import run
    from sparsemm.efficiency.terminal import shown

    with shown(Console(stderr=True, highlight=False, markup=False)) as report:
        return run(config, report)


def doctor(config: dict[str, Any]) -> Any:
    """``sparsemm doctor``."""
    from sparsemm.evaluation.doctor import run

    return run(config)


def show(verb: str, results: list[Any]) -> int:
    """Print what a verb gave after all of its jobs (several with ``-m``), and return the exit code."""
    if verb == "sweep":
        from rich.console import Console

        from sparsemm.evaluation.terminal import print_outcomes

        return print_outcomes(results, Console(highlight=False, markup=False))
    if verb == "efficiency":
        from rich.console import Console

        from sparsemm.efficiency.terminal import print_rows

        for measured in results:
            print_rows(measured.rows, measured.shown, Console(highlight=False, markup=False))
            print(measured.path)
    if verb == "doctor":
        from rich.console import Console

        from sparsemm.evaluation.terminal import print_findings

        return max([print_findings(findings, Console(highlight=False)) for findings in results], default=0)
    return 0


HYDRA_VERBS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "sweep": sweep,
    "heads": heads,
    "doctor": doctor,
    "train-tiny": train_tiny,
    "efficiency": efficiency,
}


def run_hydra(verb: str, overrides: Sequence[str]) -> list[Any]:
    """Compose a verb's configuration, run it, and return what each job gave (several with ``-m``)."""
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from sparsemm.cli.resolving import resolve

    results: list[Any] = []
    failures: list[Exception] = []

    def job(config: DictConfig) -> None:
        try:
            results.append(HYDRA_VERBS[verb](resolve(name, config)))
        except Exception as error:  # carried around Hydra, which would print it in its own way
            failures.append(error)
            raise SystemExit(1) from error

    name = verb.replace("-", "_")
    if verb == "efficiency" and overrides and re.fullmatch(r"\w+", overrides[0]):
        overrides = [f"benchmark={overrides[0]}", *overrides[1:]]
    hydrated = hydra.main(version_base="1.3", config_path=str(shipped("eval_configs")), config_name=name)
    check_launcher(overrides)
    with _hydra_process(verb, overrides):
        try:
            if verb == "sweep" and is_multirun(overrides):
                from sparsemm.cli.multirun import run

                return run(name, overrides, lambda chosen, launch: _launch(hydrated, chosen, launch))
            hydrated(job)()
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(explain(error, name)) from error
        except YAMLError as error:  # in a file of the user's own --config-dir
            raise InputError(f"a configuration cannot be read: {error}") from error
        except RecursionError as error:
            if failures:
                raise failures[0] from None
            raise InputError("the options, or a configuration's file, are nested too deeply") from error
        except SystemExit:
            if failures:
                raise failures[0] from None
            raise
    return results


def _launch(hydrated: Callable[[Any], Any], overrides: list[str], launch: Launch) -> None:
    """Hand the jobs of a multirun to Hydra's launcher, and wait until they have ended."""

    def job(config: DictConfig) -> None:  # it travels to where the job runs: nothing here stays with it
        from hydra.core.hydra_config import HydraConfig

        from sparsemm.cli.resolving import resolve
        from sparsemm.evaluation.jobs import run_job

        run_job(launch, HydraConfig.get().job.num, resolve("sweep", config))

    sys.argv = [sys.argv[0], MULTIRUN[0], *overrides]
    hydrated(job)()


@contextmanager
def _hydra_process(verb: str, overrides: Sequence[str]) -> Iterator[None]:
    """What Hydra reads from the process: its arguments, and that errors are to be raised, not printed."""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = [f"sparsemm {verb}", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        with warnings.catch_warnings():
            # Our `ray` and `joblib` have the plugins' own names, and are checked against those.
            warnings.filterwarnings("ignore", r"\s*'hydra/launcher/")
            yield
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full


def explain(error: Exception, config_name: str) -> str:
    """Hydra's message in one line: which option is wrong, and which names exist."""
    message = str(error)
    if group := re.search(r"Could not (?:find|load) '((?:hydra/)?\w+)/([^']+)'", message):
        return f"unknown {group[1]} {group[2]!r}; {nearest(group[2], names(group[1]))}"
    if option := re.search(r"Could not override '([^']+)'", message):
        return f"{config_name} has no option {option[1]!r}; {nearest(option[1], options(config_name))}"
    return message.split("\nSee https://hydra.cc")[0]


def options(config_name: str) -> list[str]:
    """What can be set in a verb's configuration, the parameters of methods and models included."""
    import yaml

    text = (shipped("eval_configs") / f"{config_name}.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    groups = [key for default in config["defaults"] if isinstance(default, dict) for key in default]
    own = [key for key in config if key not in ("defaults", "hydra")]
    model = [f"model.{key}" for name in names("model") for key in read("model", name)]
    method = [f"methods.{name}.{key}" for name in names("method") for key in read("method", name)]
    if "ablation" in groups:
        own += [f"ablations.{name}.{key}" for name in names("ablation") for key in read("ablation", name)]
    task = [f"tasks.{name}.{key}" for name in names("task") for key in read("task", name)]
    if "task" in groups:
        own += [option for option in task if not option.endswith(".defaults")]
    if "benchmark" in groups:
        own += [key for name in names("benchmark") for key in read("benchmark", name)]
    return [*groups, *own, *dict.fromkeys(model), *method]
