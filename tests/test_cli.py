"""The command line: help, names, and one line for whatever is wrong."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from sparsemm import cli
from sparsemm.configs import names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["help"]])
def test_help_names_every_verb(capsys, arguments):
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    for verb in [*cli.HYDRA_VERBS, *cli.PATH_VERBS]:
        assert f"\n  {verb} " in shown


def test_no_verb_shows_the_usage_and_fails(capsys):
    assert cli.main([]) == 2
    assert "usage: sparsemm VERB" in capsys.readouterr().out


@pytest.mark.parametrize("group", ["method", "model", "task"])
def test_list(capsys, group):
    assert cli.main(["list", f"{group}s"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == names(group)
    assert all(len(line.split()) > 3 for line in lines)


@pytest.mark.parametrize("verb", ["sweep", "heads", "train-tiny", "efficiency"])
def test_hydras_own_help(capsys, verb):
    assert cli.main([verb, "--cfg", "job"]) == 0
    capsys.readouterr()
    assert cli.main([verb, "--help"]) == 0
    assert f"sparsemm {verb}" in capsys.readouterr().out


WRONG = [
    (["swep"], "unknown verb 'swep'; did you mean sweep?"),
    (["sweep", "method=[snapkw]"], "unknown method 'snapkw'; did you mean snapkv?"),
    (["sweep", "-m", "method=snapkw,adakv"], "unknown method 'snapkw'; did you mean snapkv?"),
    (["sweep", "model=tinny"], "unknown model 'tinny'; did you mean tiny?"),
    (["sweep", "task=[tiny_orc]"], "unknown task 'tiny_orc'; did you mean tiny_ocr"),
    (["sweep", "experiment=dmo"], "unknown experiment 'dmo'; did you mean demo?"),
    (["sweep", "budgt=16"], "sweep has no option 'budgt'; did you mean budget?"),
    (["sweep", "methods.sparsemm.rato=0.2"], "did you mean methods.sparsemm.ratio"),
    (["sweep", "+methods.snapkv.beta=3"], "SnapKV has no parameter 'beta'"),
    (["sweep", "budget=[16"], "no viable alternative at input '[16'"),
    (["sweep", "budget=7"], "smaller than the window"),
    (["sweep", "budget=-3"], "budget"),
    (["sweep", "budget=0"], "budget"),
    (["sweep", "budget=many"], "budget must be an int (tokens) or a float"),
    (["sweep", "budget=[]"], "no budget given"),
    (["sweep", "method=[]"], "at least one task and one method"),
    (["sweep", "limit=0"], "limit must be a positive integer or null"),
    (["sweep", "batch_size=0", "method=[fullkv]"], "batch_size must be a positive integer"),
    (["sweep", "model.pretrained=nowhere"], "no model 'nowhere'"),
    (["sweep", "model.head_scores=none.safetensors", "method=[sparsemm]"], "no such file: none.safetensors"),
    (["sweep", "ablations.mask_visual.mod=uniform"], "did you mean ablations.mask_visual.mode"),
    (["sweep", "methods=[snapkv]"], "methods holds the options of what is chosen; choose by method=[snapkv]"),
    (["sweep", "methods=snapkv"], "methods holds the options of what is chosen"),
    (["sweep", "tasks=[tiny_ocr]"], "choose by task=[tiny_ocr]"),
    (["sweep", "budget.x=3"], "sweep has no option 'budget.x'; did you mean budget?"),
    (["sweep", "methods.adakv.floor=0.5", "method=[snapkv]"], "method adakv is not chosen: add it"),
    (["sweep", "+methods.adakv.floor=0.5", "method=[snapkv]"], "method adakv is not chosen: add it"),
    (["sweep", "tasks.chartqa.data_files=x"], "task chartqa is not chosen: add it (task=[chartqa])"),
    (["sweep", "ablations.mask_visual.mode=uniform"], "ablation mask_visual is not chosen: add it"),
    (["sweep", "method=snapkv,adakv"], "several values: a list is method=[snapkv,adakv]"),
    (["sweep", "foo"], "options are NAME=VALUE, got 'foo'"),
    (["sweep", "model.pretrained=qwen2_vl_7b"], "a configuration is chosen by model=qwen2_vl_7b"),
    # what nothing heeds
    (["sweep", "+budgt=16"], "sweep has no option 'budgt'; did you mean budget"),
    (["sweep", "++foo=1"], "sweep has no option 'foo'; known: name, output, budget"),
    (["sweep", "-m", "budget=range(1,1)", "limit=2,3"], "budget=range(1,1) has no value: no job would run"),
    (["sweep", "-m", "+foo=1,2"], "sweep has no option 'foo'"),
    (
        ["sweep", "+model.images_kwarg={a: 1}"],
        "no option 'model.images_kwarg'; did you mean images_kwargs",
    ),
    (
        ["sweep", "+tasks.tiny_ocr.data_files=x"],
        "sweep has no option 'tasks.tiny_ocr.data_files'; known: metric",
    ),
    (["sweep", "method=fullkv", "budget=16"], "budget has no effect: fullkv evicts nothing"),
    (["sweep", "-m", "method=fullkv", "budget=16,32"], "budget has no effect: fullkv evicts nothing"),
    (["sweep", "method=fullkv", "prompt=question_after_compression"], "prompt has no effect: fullkv"),
    (["sweep", "method=fullkv", "model.window=16"], "model.window has no effect: no chosen method uses it"),
    (["sweep", "method=[snapkv]", "model={head_scores: x}"], "model.head_scores has no effect: nothing that"),
    (["sweep", "model.ocr_prompt=read"], "model.ocr_prompt has no effect: a sweep's tasks ask"),
    (["sweep", "rate=[0.5,0.6]"], "rate has no effect: it is for a plan"),
    (["sweep", "name=a", "output=b"], "name has no effect: it names the results folder, and so does output"),
    (["sweep", "ablation=mask_visual", "fraction=0"], "ablation has no effect: a fraction of 0"),
    (["sweep", "device=cpu", "model.device_map=auto"], "device has no effect: model.device_map says"),
    (["sweep", "+methods.sparsemm.seed=1"], "seed belongs to control='shuffled'"),
    (["heads", "size=[960,1280]"], "size has no effect: it is for documents=running, not pages"),
    (["heads", "documents=running", "tokens=96"], "tokens has no effect: it is for documents=pages"),
    (["heads", "documents=synthdog", "seed=1"], "seed has no effect: it is for documents=pages or running"),
    (["heads", "model.window=8"], "model.window has no effect: nothing is compressed"),
    (["heads", "+foo=1"], "heads has no option 'foo'"),
    (["doctor", "method=[fullkv]", "budget=0.5"], "budget has no effect: fullkv evicts nothing"),
    (["doctor", "method=[fullkv]", "backend=loop"], "backend has no effect: fullkv evicts nothing"),
    (["doctor", "model.head_scores=x"], "model.head_scores has no effect"),
    (["doctor", "prompt=a", "model.ocr_prompt=b"], "model.ocr_prompt has no effect: prompt takes its place"),
    (["doctor", "+foo=1"], "doctor has no option 'foo'"),
    (["train-tiny", "+foo=1"], "train_tiny has no option 'foo'"),
    (["efficiency", "documents=3"], "the benchmark's name comes first: decode or "),
    (["efficiency", "fanout", "+foo=1"], "efficiency has no option 'foo'"),
    (["efficiency", "fanout", "+lengths=[3]"], "efficiency has no option 'lengths'"),
    (["efficiency", "decode", "documents=3"], "has no option 'documents': it is one of fanout"),
    (["efficiency", "decode", "method=[snapkv]"], "efficiency has no option 'method'; did you mean methods?"),
    (["efficiency", "decode", "model.window=3"], "model.window has no effect: shapes are measured"),
    (["efficiency", "kvpress", "model=tiny"], "model has no effect: kvpress measures a model of its own"),
    (["efficiency", "fanout", "methods=[snapkv]", "model.head_scores=x"], "model.head_scores has no effect"),
    (["heads", "seed=-1"], "seed must be an integer from 0 on, got -1"),
    (["heads", "seed=1.5"], "seed must be an integer from 0 on, got 1.5"),
    (["heads", "n=true"], "n must be a positive integer, got True"),
    (["heads", "kinds=form"], "kinds must be a list of kinds of pages"),
    (["heads", "tokens=[144]"], "tokens must be a number of visual tokens, got [144]"),
    (["heads", "output=null"], "output must end with .safetensors, got 'None'"),
    (["heads", "rule=[a]"], "rule"),
    (["heads", "n_pages=3"], "heads has no option 'n_pages'"),
    (["heads", "documents=runing"], "there is no such folder or file; did you mean running?"),
    (["overlap", "nowhere.safetensors", "nowhere.json"], "no such file: nowhere.safetensors"),
    (["efficiency", "fanot"], "unknown benchmark 'fanot'; did you mean fanout?"),
    (["efficiency", "fanout", "documnts=3"], "efficiency has no option 'documnts'; did you mean documents?"),
    (["efficiency", "fanout", "documents=0"], "documents must be a positive integer, got 0"),
    (["efficiency", "fanout", "methods=[snapkw]"], "unknown method 'snapkw'; did you mean snapkv?"),
    (["efficiency", "fanout", "workloads=[lookups]"], "unknown workload 'lookups'; did you mean lookup?"),
    (["efficiency", "fanout", "budgets=[]"], "at least one method and one budget"),
    (["efficiency", "fanout", "separate=36"], "separate must be below the number of cells (36), got 36"),
    (["list", "tasks", "--include-paths"], "--include-paths"),
    (["list", "methods", "--include-path"], "--include-path belongs to"),
    (["figures", "nowhere"], "nowhere"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG, ids=[" ".join(arguments) for arguments, _ in WRONG])
def test_wrong_input_gives_one_line_and_a_code(capsys, elsewhere, arguments, message):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr().err.splitlines()
    assert message in shown[-1]
    assert len([line for line in shown if not line.startswith("usage:")]) == 1
    assert not list(elsewhere.rglob("*.csv"))


def test_efficiency_alone_says_what_there_is(capsys, elsewhere):
    assert cli.main(["efficiency"]) == 2
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown[2:]] == names("benchmark")
    assert all(len(line.split()) > 3 for line in shown[2:])
    assert not list(elsewhere.iterdir())


AWKWARD = [
    "a=b",
    "a(b",
    "it's",
    'say "x"',
    "b\\'c",
    "it's \\",
    "{a",
    "$HOME(",
    "[1",
    "a=b,c",
    "(`x`)",
    "'a=b'x",
]


@pytest.mark.parametrize("value", AWKWARD)
def test_what_cannot_be_read_comes_with_a_form_that_can(capsys, value):
    assert cli.main(["sweep", f"output={value}"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(("sparsemm: cannot read 'output=", 'sparsemm: cannot read "output='))
    [advised] = shlex.split(line.split("quotes inside quotes: ")[1])
    assert OverridesParser.create().parse_override(advised).value() == value


def test_a_real_process_ends_without_a_traceback(elsewhere):
    command = [sys.executable, "-m", "sparsemm.cli", "sweep", "method=[snapkw]"]
    ended = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.splitlines() == ["sparsemm: unknown method 'snapkw'; did you mean snapkv?"]
    assert not list(elsewhere.iterdir())


def test_full_error_shows_where_it_was(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="smaller than the window"):
        cli.main(["sweep", "budget=7"])
