"""Verbs that run something: Hydra composes ``eval_configs/<verb>.yaml``, and a function of theirs gets it."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from sparsemm.cli.explaining import explain
from sparsemm.cli.given import check_effect, check_names, check_parts, own_checkpoint
from sparsemm.cli.launchers import MULTIRUN, check_launcher, is_multirun
from sparsemm.configs import InputError, names, shipped, summary

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
            for line in measured.unfinished:
                Console(stderr=True, highlight=False, markup=False).print(f"unfinished: {line}")
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


def version_base() -> dict[str, str]:
    """How Hydra 1.3 is told that its newest defaults are meant; 1.4 has no others, and warns who says so."""
    import hydra

    return {"version_base": "1.3"} if hydra.__version__.startswith("1.3.") else {}


def idle(verb: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Options without an effect in a verb's configuration, and why."""
    if verb in ("sweep", "doctor"):
        from sparsemm.evaluation import idle

        return idle.of_sweep(config) if verb == "sweep" else idle.of_doctor(config)
    if verb == "heads":
        from sparsemm.heads.chosen import idle as of_heads

        return of_heads(config)
    if verb == "efficiency":
        from sparsemm.efficiency.idle import of_benchmark

        return of_benchmark(config)
    return {}


def run_hydra(verb: str, overrides: Sequence[str]) -> list[Any]:
    """Compose a verb's configuration, run it, and return what each job gave (several with ``-m``)."""
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    from sparsemm.cli.resolving import resolve

    results: list[Any] = []
    failures: list[Exception] = []

    def job(config: DictConfig) -> None:
        try:
            said = HydraConfig.get()
            own_checkpoint(config, said.runtime.choices, said.overrides.task)
            resolved = resolve(name, config)
            check_names(name, resolved)
            if not is_multirun(overrides):
                check_effect(said.overrides.task, [resolved], lambda config: idle(verb, config))
            results.append(HYDRA_VERBS[verb](resolved))
        except Exception as error:  # carried around Hydra, which would print it in its own way
            failures.append(error)
            raise SystemExit(1) from error

    name = verb.replace("-", "_")
    if verb == "efficiency":
        overrides = _with_benchmark(overrides)
    hydrated = hydra.main(**version_base(), config_path=str(shipped("eval_configs")), config_name=name)
    check_launcher(overrides)
    check_parts(name, overrides)
    with _hydra_process(verb, overrides):
        try:
            if is_multirun(overrides):
                from sparsemm.cli.multirun import choices, configurations, run

                options = choices(overrides)
                jobs = configurations(name, options)
                told = [one for option in options for one in option]
                check_effect(told, [config for _, config in jobs], lambda config: idle(verb, config))
                if verb == "sweep":
                    return run(options, jobs, lambda chosen, launch: _launch(hydrated, chosen, launch))
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


def _with_benchmark(overrides: Sequence[str]) -> list[str]:
    """The arguments of ``efficiency`` with the benchmark's name as an option; without any, what there is.

    Raises
    ------
    InputError
        Options, and no name before them.
    """
    if not overrides:
        print("usage: sparsemm efficiency BENCHMARK [OPTION=VALUE …]\n")
        print("\n".join(f"  {one:8}  {summary('benchmark', one)}" for one in names("benchmark")))
        raise SystemExit(2)
    first, *others = overrides
    if re.fullmatch(r"\w+", first):
        return [f"benchmark={first}", *others]
    asked = any(one.startswith("-") for one in overrides) and not is_multirun(overrides)  # --help, --cfg
    if not asked and not any(one.startswith("benchmark=") for one in overrides):
        raise InputError(f"the benchmark's name comes first: {' or '.join(names('benchmark'))}")
    return list(overrides)


def _launch(hydrated: Callable[[Any], Any], overrides: list[str], launch: Launch) -> None:
    """Hand the jobs of a multirun to Hydra's launcher, and wait until they have ended."""

    def job(config: DictConfig) -> None:  # it travels to where the job runs: nothing here stays with it
        from hydra.core.hydra_config import HydraConfig

        from sparsemm.cli.given import own_checkpoint
        from sparsemm.cli.resolving import resolve
        from sparsemm.evaluation.jobs import run_job

        said = HydraConfig.get()
        own_checkpoint(config, said.runtime.choices, said.overrides.task)
        run_job(launch, said.job.num, resolve("sweep", config))

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
            # Hydra's scanner shows what plugins do that OmegaConf 2.4 will forget; 2.3 knows nothing else.
            warnings.filterwarnings(
                "ignore", r"register_new_resolver\(\) is deprecated", module="hydra_plugins"
            )
            yield
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
