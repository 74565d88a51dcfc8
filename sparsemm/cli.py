"""The command line: ``sparsemm VERB …``.

Verbs that run something are configured by Hydra (``eval_configs/<verb>.yaml``); those that look at results
take a path.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsemm.configs import InputError, given_or_shipped, names, nearest, read, shipped, summary
from sparsemm.launchers import MULTIRUN, check_launcher, is_multirun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from omegaconf import DictConfig

    from sparsemm.evaluation.jobs import Launch

USAGE = """\
usage: sparsemm VERB [options]

Which KV entries of a multimodal LLM to keep, head by head, and what that costs in accuracy.

run something (options are Hydra overrides, `sparsemm VERB --help` lists them):
  sweep        measure tasks x methods x budgets; finished cells are skipped
                 sparsemm sweep experiment=demo
                 sparsemm sweep task=[tiny_docvqa] method=[snapkv,sparsemm] budget=[16,32]
                 sparsemm sweep -m method=snapkv,adakv budget=16,32
                 sparsemm sweep -m task=tiny_docvqa,tiny_ocr hydra/launcher=slurm
  heads        find a model's visual heads and write their scores
  doctor       does compression work with this model? one prompt, checked
                 sparsemm doctor model=qwen2_vl_7b
  train-tiny   train the embedded model
  efficiency   measure what the engine costs; the benchmark's name comes first
                 sparsemm efficiency fanout documents=64
                 sparsemm efficiency decode shapes=[checkpoint] lengths=[1024]
                 sparsemm efficiency kvpress python=kvpress-env/bin/python

look at results and names:
  figures RESULTS                              draw the figures of a results folder
          [--width column|full] [--efficiency FOLDER] [--paper]
  report RESULTS [-o FILE.html] [--serve]      one page: tables, charts, every sample; --serve follows a sweep
  status RESULTS                               how far a sweep is, also while it runs
  overlap HEADS OTHER [--output FILE.csv]      what top heads two files of head scores have in common
  list methods|models|tasks [--include-path]   what can be named; where lmms-eval finds the local tasks

--version, --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code.

    Bad input gives one line on stderr and exit code 2; with ``HYDRA_FULL_ERROR=1`` in the environment, the
    traceback.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from importlib.metadata import version

        print(f"sparsemm {version('sparsemm')}")
        return 0
    verb, rest = arguments[0], arguments[1:]
    try:
        if verb in HYDRA_VERBS:
            return show(verb, run_hydra(verb, rest))
        if verb in PATH_VERBS:
            return PATH_VERBS[verb](rest)
        raise InputError(f"unknown verb {verb!r}; {nearest(verb, [*HYDRA_VERBS, *PATH_VERBS])}")
    except SystemExit as end:  # argparse and Hydra end so after --help and after their own messages
        return int(end.code or 0)
    except KeyboardInterrupt:
        print("sparsemm: interrupted; what was answered is kept, the same command goes on", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        print(f"sparsemm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


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

    with shown(Console(stderr=True, highlight=False)) as report:
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

        return print_outcomes(results, Console(highlight=False))
    if verb == "efficiency":
        from rich.console import Console

        from sparsemm.efficiency.terminal import print_rows

        for measured in results:
            print_rows(measured.rows, measured.shown, Console(highlight=False))
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
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    results: list[Any] = []
    failures: list[Exception] = []

    def job(config: DictConfig) -> None:
        try:
            resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
            results.append(HYDRA_VERBS[verb](resolved))
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
                from sparsemm.multirun import run

                return run(name, overrides, lambda chosen, launch: _launch(hydrated, chosen, launch))
            hydrated(job)()
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(explain(error, name)) from error
        except SystemExit:
            if failures:
                raise failures[0] from None
            raise
    return results


def _launch(hydrated: Callable[[Any], Any], overrides: list[str], launch: Launch) -> None:
    """Hand the jobs of a multirun to Hydra's launcher, and wait until they have ended."""

    def job(config: DictConfig) -> None:  # it travels to where the job runs: nothing here stays with it
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import OmegaConf

        from sparsemm.evaluation.jobs import run_job

        resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        run_job(launch, HydraConfig.get().job.num, resolved)

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


def figures(arguments: Sequence[str]) -> int:
    """``sparsemm figures RESULTS``."""
    parser = argparse.ArgumentParser(
        prog="sparsemm figures", description="Draw the figures of a results folder."
    )
    parser.add_argument("results", help="results/<experiment>, or the output of `sparsemm efficiency decode`")
    parser.add_argument(
        "--width", choices=["column", "full"], help="of a column, or of a full page; default: each figure's"
    )
    parser.add_argument("--efficiency", metavar="FOLDER", help="decode times, to draw scores against them")
    parser.add_argument(
        "--paper", action="store_true", help="mark the scores that SparseMM's authors published"
    )
    options = parser.parse_args(arguments)
    from sparsemm.figures import save
    from sparsemm.figures.style import WIDTHS

    for path in save(
        options.results,
        width=WIDTHS[options.width] if options.width else None,
        efficiency=options.efficiency,
        paper=options.paper,
        say=lambda line: print(line, file=sys.stderr),
    ):
        print(path)
    return 0


def report(arguments: Sequence[str]) -> int:
    """``sparsemm report RESULTS``."""
    parser = argparse.ArgumentParser(
        prog="sparsemm report",
        description="Make one HTML page of a results folder: tables, charts, and every sample's answers.",
    )
    parser.add_argument("results", type=Path, help="results/<experiment>")
    parser.add_argument("-o", "--output", type=Path, help="the file (default: report.html in the folder)")
    parser.add_argument(
        "--efficiency", type=Path, metavar="DECODE.csv", help="of `sparsemm efficiency decode`"
    )
    parser.add_argument("--documents", type=int, metavar="N", help="samples, of all tasks (default: 2000)")
    parser.add_argument(
        "--data", action="append", default=[], metavar="TASK=FILES", help="parquet files of an official task"
    )
    parser.add_argument(
        "--serve", action="store_true", help="show it on this machine, also while a sweep runs"
    )
    parser.add_argument("--port", type=int, help="of --serve (default: 8765; 0: any)")
    given = parser.parse_args(arguments)
    if given.serve and given.output:
        raise InputError("--serve writes no file: leave --output out")
    if given.port is not None and not given.serve:
        raise InputError("--port belongs to --serve")
    if given.documents is not None and given.documents < 1:
        raise InputError(f"--documents must be a positive integer, got {given.documents}")
    if given.port is not None and not 0 <= given.port < 65536:
        raise InputError(f"--port must be between 0 and 65535, got {given.port}")
    from sparsemm.report import PageOptions, write_report

    options = PageOptions.of(given.efficiency, given.documents, given.data)
    if given.serve:
        from sparsemm.report.serve import PORT, serve

        serve(given.results, options, port=PORT if given.port is None else given.port)
    else:
        print(write_report(given.results, given.output or given.results / "report.html", options))
    return 0


def status(arguments: Sequence[str]) -> int:
    """``sparsemm status RESULTS``."""
    parser = argparse.ArgumentParser(
        prog="sparsemm status", description="Show how far a sweep is, also while it runs."
    )
    parser.add_argument("results", help="results/<experiment>")
    folder = Path(parser.parse_args(arguments).results)
    from rich.console import Console

    from sparsemm.evaluation.status import print_status, read_status

    print_status(folder, read_status(folder), Console(highlight=False))
    return 0


def overlap(arguments: Sequence[str]) -> int:
    """``sparsemm overlap HEADS OTHER``."""
    parser = argparse.ArgumentParser(
        prog="sparsemm overlap",
        description="Share of the top heads that two files of head scores have in common.",
    )
    parser.add_argument(
        "heads", help="head scores: .safetensors of `sparsemm heads`, or the paper's released .json"
    )
    parser.add_argument("other", help="others of the same model")
    parser.add_argument("--output", type=Path, help="write the table here, as CSV")
    options = parser.parse_args(arguments)
    from rich.console import Console

    from sparsemm.heads import HeadScores
    from sparsemm.heads.overlap import overlap as measured
    from sparsemm.heads.terminal import print_overlap
    from sparsemm.recording import write_atomically

    one, other = (HeadScores.load(given_or_shipped(path)) for path in (options.heads, options.other))
    table = measured(one, other)
    if options.output:
        write_atomically(options.output, lambda beside: table.round(6).to_csv(beside, index=False))
    print_overlap(table, Console(highlight=False))
    return 0


def list_names(arguments: Sequence[str]) -> int:
    """``sparsemm list methods|models|tasks``."""
    parser = argparse.ArgumentParser(prog="sparsemm list", description="List what can be named in a sweep.")
    parser.add_argument("what", choices=["methods", "models", "tasks"])
    parser.add_argument(
        "--include-path",
        action="store_true",
        help="tasks: print the folder for lmms-eval's --include_path instead",
    )
    options = parser.parse_args(arguments)
    group = options.what.removesuffix("s")
    if options.include_path:
        if group != "task":
            raise InputError("--include-path belongs to `sparsemm list tasks`")
        from sparsemm.evaluation.tasks import include_path

        print(include_path())
        return 0
    known = names(group)
    width = max(map(len, known))
    for name in known:
        print(f"{name:{width}}  {summary(group, name)}".rstrip())
    return 0


PATH_VERBS: dict[str, Callable[[Sequence[str]], int]] = {
    "figures": figures,
    "report": report,
    "status": status,
    "overlap": overlap,
    "list": list_names,
}

if __name__ == "__main__":
    sys.exit(main())
