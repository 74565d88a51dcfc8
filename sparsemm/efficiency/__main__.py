"""The same without Hydra, for a bare machine: ``python -m sparsemm.efficiency BENCHMARK [OPTION=VALUE]``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import yaml

from sparsemm.configs import EMBEDDED, InputError, names, nearest, own_model, read, refuse_idle, shipped
from sparsemm.efficiency import run
from sparsemm.efficiency.decode_table import as_text
from sparsemm.efficiency.idle import of_benchmark


def configuration(arguments: Sequence[str]) -> dict[str, Any]:
    """What ``sparsemm efficiency`` would compose, for options at the top of the files and ``model.OPTION``.

    Raises
    ------
    InputError
        Unknown benchmark or option, with the nearest known ones; an option without an effect.
    """
    if not arguments:
        known = ", ".join(names("benchmark"))
        raise InputError(
            f"usage: python -m sparsemm.efficiency BENCHMARK [OPTION=VALUE ...]; benchmarks: {known}"
        )
    base = yaml.safe_load((shipped("eval_configs") / "efficiency.yaml").read_text(encoding="utf-8"))
    config = {name: value for name, value in base.items() if name not in ("defaults", "hydra")}
    config |= {**read("benchmark", arguments[0]), "model": EMBEDDED}
    of_model: dict[str, Any] = {}
    for argument in arguments[1:]:
        name, _, value = argument.partition("=")
        try:
            meant = yaml.safe_load(value)
        except yaml.YAMLError:
            raise InputError(f"cannot read {argument!r}: values are YAML, a list is {name}=[1,2]") from None
        if name.startswith("model."):
            of_model[name.removeprefix("model.")] = meant
        elif name == "benchmark":
            raise InputError(f"the benchmark comes first, and is {arguments[0]}: leave {argument} out")
        elif name in config:
            config[name] = meant
        else:
            raise InputError(f"no option {name!r}; {nearest(name, config)}")
    pretrained = of_model.get("pretrained", EMBEDDED)
    own = config["model"] == EMBEDDED and isinstance(pretrained, str) and pretrained != EMBEDDED
    model = own_model(pretrained) if own else read("model", config["model"])
    for name in of_model:
        if name not in model:
            raise InputError(f"no option 'model.{name}'; {nearest(name, model)}")
    found = {**config, "model": model | of_model}
    given = (argument.partition("=") for argument in arguments[1:])
    refuse_idle((name for name, _, value in given if value != "null"), of_benchmark(found))
    return found


def main(arguments: Sequence[str]) -> int:
    """Run, and print the table's path; progress, the rows and what is unfinished go to stderr.

    Returns
    -------
    int
        Exit code: 1 where something is unfinished, 2 for wrong options.
    """

    def report(done: int, total: int, text: str) -> None:
        print(f"{done}/{total} {text}", file=sys.stderr, flush=True)

    try:
        measured = run(configuration(arguments), report)
    except KeyboardInterrupt:
        print("sparsemm: interrupted; finished rows are kept, the same command goes on", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        print(f"sparsemm: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for row in [measured.shown, *measured.rows]:
        print("\t".join(as_text(row.get(name)) for name in measured.shown), file=sys.stderr)
    for line in measured.unfinished:
        print(f"unfinished: {line}", file=sys.stderr)
    print(measured.path)
    return 1 if measured.unfinished else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
