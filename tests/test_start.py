"""What starts light stays light: fresh processes say what a command, an import or a room has loaded."""

import copy
import json
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sparsemm

SLOW = ("torch", "transformers", "lmms_eval", "datasets", "accelerate", "tokenizers")
TABLES = ("pandas", "pyarrow", "scipy", "matplotlib", "plotly")


def fresh(code: str, *arguments: str) -> str:
    """What a new interpreter prints."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


COMMANDS = """
import contextlib, io, json, sys
from sparsemm.cli import main
commands, heavy = map(json.loads, sys.argv[1:])
for command, code in commands:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        assert main(command.split()) == code, (command, said.getvalue())
    assert code == 0 or said.getvalue(), command
    assert not (loaded := [name for name in heavy if name in sys.modules]), (command, loaded)
"""


def test_help_lists_status_and_wrong_names_load_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    commands = [
        *(("--help", 0), ("--version", 0), ("list methods", 0), ("list models", 0), ("list tasks", 0)),
        *((f"status {tmp_path}", 0), ("status --help", 0), ("status NONE", 2), ("status --wrong", 2)),
        *(("figures --help", 0), ("report --help", 0), ("report NONE --port 1", 2), ("overlap one", 2)),
        *(("wrong", 2), ("list wrong", 2), ("list methods --include-path", 2)),
        *(("sweep --help", 0), ("sweep metod=snapkv", 2), ("sweep method=snapkw", 2), ("sweep limit", 2)),
        *(("sweep -m method=snapkw,adakv", 2), ("sweep -m metod=snapkv,adakv", 2)),
        *(("sweep -m hydra/launcher=wrong", 2), ("heads model=wrong", 2), ("doctor wrong=1", 2)),
        *(("efficiency wrong", 2), ("train-tiny wrong=1", 2)),
    ]
    fresh(COMMANDS, json.dumps(commands), json.dumps([*SLOW, *TABLES]))


def test_results_and_local_tasks_are_looked_at_without_torch() -> None:
    scores = Path(sparsemm.__file__).parents[1] / "results/head_scores/tiny.safetensors"
    commands = [
        *(("list tasks --include-path", 0), (f"overlap {scores} {scores}", 0)),
        *(("figures NONE", 2), ("report NONE", 2), ("overlap NONE NONE", 2)),
    ]
    fresh(COMMANDS, json.dumps(commands), json.dumps(["torch", "transformers", "lmms_eval", "accelerate"]))


@pytest.mark.parametrize(
    "imports",
    [
        "import sparsemm; from transformers import AutoModelForImageTextToText",
        "from transformers import AutoModelForImageTextToText, PreTrainedModel; import sparsemm",
        "import transformers, sparsemm.cache; from transformers import AutoModelForImageTextToText",
    ],
)
def test_the_attention_is_known_in_any_order_of_imports(imports: str) -> None:
    folder = Path(sparsemm.__file__).parent / "tiny" / "checkpoint"
    attention = fresh(
        "import sys; before = list(sys.meta_path)\n"
        f"{imports}\n"
        "model = AutoModelForImageTextToText.from_pretrained(\n"
        "    sys.argv[1], attn_implementation={'text_config': 'sparsemm'})\n"
        "from transformers import AttentionMaskInterface\n"
        "assert 'sparsemm' in AttentionMaskInterface()\n"
        "assert 'sparsemm.registering' not in [type(one).__module__ for one in sys.meta_path]\n"
        "print(model.config.text_config._attn_implementation)",
        str(folder),
    )
    assert attention.split()[-1] == "sparsemm"


def test_an_import_of_transformers_that_failed_registers_when_it_succeeds(tmp_path: Path) -> None:
    package = tmp_path / "transformers"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "modeling_utils.py").write_text(
        "import sys\nif not hasattr(sys, 'again'):\n    sys.again = 1\n    raise OSError('no disk')\n"
    )
    said = fresh(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import sparsemm.registering\n"
        "sparsemm.registering.import_module = print\n"
        "try:\n    import transformers.modeling_utils\n"
        "except OSError as error:\n    print(error)\n"
        "import transformers.modeling_utils",
        str(tmp_path),
    )
    assert said.splitlines() == ["no disk", "sparsemm.cache"]


def test_public_names_are_found_listed_and_pickled() -> None:
    listed = fresh(
        "import sys, sparsemm, sparsemm.tiny\n"
        "assert not hasattr(sparsemm, 'wrong') and set(sparsemm.__all__) <= set(dir(sparsemm))\n"
        "assert set(sparsemm.tiny.__all__) <= set(dir(sparsemm.tiny)) and sparsemm.tiny.CHECKPOINT.is_dir()\n"
        "assert 'torch' not in sys.modules\n"
        "from sparsemm import *\n"
        "from sparsemm.tiny import *\n"
        "print(*sorted(globals()), sparsemm.cache.__name__, sparsemm.heads.__name__)"
    ).split()
    assert {*sparsemm.__all__, "build_model", "PRESETS", "sparsemm.cache", "sparsemm.heads"} <= set(listed)
    with pytest.raises(AttributeError, match="module 'sparsemm' has no attribute 'wrong'"):
        _ = sparsemm.wrong  # pyright: ignore[reportAttributeAccessIssue]
    method = sparsemm.SnapKV(64, window=8)
    for again in (pickle.loads(pickle.dumps(method)), copy.deepcopy(method)):
        assert type(again) is sparsemm.SnapKV
        assert vars(again) == vars(method)
    assert pickle.loads(pickle.dumps(sparsemm.load_results)) is sparsemm.load_results


def closure(names: Iterable[str]) -> set[str]:
    """Distributions, and all that they require."""
    found: set[str] = set()
    left = [canonicalize_name(name) for name in names]
    while left:
        name = left.pop()
        if name in found:
            continue
        found.add(name)
        try:
            needed = map(Requirement, requires(name) or ())
        except PackageNotFoundError:  # one that is for another system
            continue
        left += [
            canonicalize_name(one.name)
            for one in needed
            if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return found


ABSENT = """
import sys
from importlib import import_module
absent, modules = (text.split() for text in sys.argv[1:])
sys.modules.update(dict.fromkeys(absent))  # None: as if they were not installed
for name in modules:
    try:
        import_module(name)
    except ImportError as error:
        sys.exit(f"{name}: {error}")
"""

BARE = ("torch", "transformers", "numpy", "pillow")
ALL = {
    name: [module.name for module in pkgutil.walk_packages([str(Path(sparsemm.__file__).parent / name)],
                                                           f"sparsemm.{name}.")]
    for name in ("methods", "cache", "documents", "tiny", "models", "efficiency")
}  # fmt: skip
"""Modules of the rooms that run where little is installed, those of inner folders included."""


@pytest.mark.parametrize(
    ("modules", "needed"),
    [
        (["sparsemm.evaluation.responses", "sparsemm.evaluation.storefile"], ()),
        (["sparsemm.evaluation.store", "sparsemm.evaluation.writers"], ("filelock", "pyyaml")),
        (["sparsemm.evaluation.status"], ("filelock", "pyyaml", "numpy", "psutil", "rich")),
        (["sparsemm.cli.looking", "sparsemm.cli.running", "sparsemm.cli.launchers"], ("pyyaml",)),
        (ALL["documents"], ("numpy", "pillow")),
        (ALL["methods"], ("torch", "numpy")),
        ([*ALL["cache"], *ALL["tiny"], *ALL["models"], *ALL["efficiency"]], BARE),
    ],
    ids=["responses", "store", "status", "cli", "documents", "methods", "bare"],
)
def test_a_room_runs_where_only_what_it_needs_is_installed(
    modules: list[str], needed: tuple[str, ...]
) -> None:
    kept = closure(needed)
    absent = [
        module
        for module, owners in packages_distributions().items()
        if module != "sparsemm" and not kept & set(map(canonicalize_name, owners))
    ]
    assert {"lmms_eval", "hydra", "pandas"} <= set(absent)
    # Triton's kernels are imported where they are launched, and commands are not imported.
    imported = [name for name in modules if not name.endswith(("triton_kernels", "__main__"))]
    assert imported
    fresh(ABSENT, " ".join(absent), " ".join(imported))
