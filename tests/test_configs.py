"""Every configuration of the tree composes, and stands for what it says."""

import dataclasses
from pkgutil import resolve_name

import pytest
from hydra import compose, initialize_config_dir

from sparsemm.cli.launchers import PLUGINS
from sparsemm.cli.running import version_base
from sparsemm.configs import names, read, shipped, summary
from sparsemm.evaluation import official
from sparsemm.evaluation.methods import build_method
from sparsemm.evaluation.official import BENCHMARKS
from sparsemm.evaluation.sweep import plan
from sparsemm.evaluation.tables import PROMPTS
from sparsemm.evaluation.tasks import TASK_FILES
from tests.composing import composed
from tests.methods.cases import DESIGNED

METHODS = names("method")
GROUPS = {
    "paper_ocr": ["docvqa_val", "ocrbench", "textvqa_val", "chartqa", "textcaps_val"],
    "paper_general": ["mmbench_en_dev_static", "gqa", "vqav2_val", "mme", "ai2d"],
}


def test_the_tree_holds_every_method_of_the_design():
    assert set(METHODS) >= set(DESIGNED)
    assert set(names("task")) == {*TASK_FILES, *BENCHMARKS, *GROUPS}


@pytest.mark.parametrize("method", METHODS)
def test_methods(method):
    config = composed("sweep", f"method=[{method}]", "task=[tiny_ocr]", "budget=[16,0.5]")
    assert config["methods"] == {method: read("method", method)}
    cells = plan(config)
    assert len(cells) == (1 if method == "fullkv" else 2)
    assert {cell.method_name for cell in cells} == {method}
    assert all(cell.method.window == 8 for cell in cells if cell.method.evicts)


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_file_names_all_its_parameters(method):
    parameters = read("method", method)
    fields = dataclasses.fields(resolve_name(parameters.pop("_target_")))
    optional = {"budget", "window", "control", "seed"}
    assert {field.name for field in fields if field.init} - optional <= set(parameters)


def test_released_forms_and_controls_differ_from_the_defaults():
    built = {
        name: build_method(
            read("method", name), budget=32, window=8, head_scores=read("model", "tiny")["head_scores"]
        )
        for name in METHODS
    }
    for name, method in built.items():
        assert getattr(method, "rounding", "exact") == ("released" if name.endswith("_released") else "exact")
        assert getattr(method, "overflow", None) in (
            None,
            "drop" if name == "sparsemm_released" else "redistribute",
        )
        if name.startswith("sparsemm"):
            control = name.removeprefix("sparsemm").removeprefix("_")
            assert getattr(method, "control", None) == (control if control not in ("", "released") else None)
    assert (built["adakv_original"].kernel, built["adakv_original"].pooling) == (7, "max")


@pytest.mark.parametrize("model", names("model"))
def test_models(model):
    config = composed("sweep", f"model={model}", "method=[snapkv]")
    assert config["model"]["name"] == model
    assert set(config["model"]) == {
        *("name", "pretrained", "dtype", "device_map", "quantization", "images_kwargs"),
        *("trust_remote_code", "window", "head_scores", "ocr_prompt"),
    }
    assert composed("heads", f"model={model}")["output"] == f"outputs/head_scores/{model}.safetensors"


@pytest.mark.parametrize("task", TASK_FILES)
def test_local_tasks(task):
    config = composed("sweep", f"task=[{task}]")
    assert list(config["tasks"]) == [task]
    assert f"metric: {config['tasks'][task]['metric']}\n" in TASK_FILES[task]


@pytest.mark.parametrize("task", BENCHMARKS)
def test_official_tasks(task):
    config = composed("sweep", f"task=[{task}]", f"tasks.{task}.data_files=data.parquet")
    assert list(config["tasks"]) == [task]
    options = config["tasks"][task]
    assert set(options) == {"metric", "data_files", "revision"}
    settings = official.settings(task, {**options, "data_files": None})
    assert [entry["metric"] for entry in settings["metric_list"]] == [options["metric"]]


@pytest.mark.parametrize("group", GROUPS)
def test_groups_of_tasks(group):
    assert list(composed("sweep", f"task={group}")["tasks"]) == GROUPS[group]
    config = composed("sweep", f"task=[{group},tiny_docvqa,{GROUPS[group][0]}]")
    assert list(config["tasks"]) == [*GROUPS[group], "tiny_docvqa"]
    assert "task" not in config
    assert summary("task", group).startswith(f"Group: {', '.join(GROUPS[group])}")


@pytest.mark.parametrize("experiment", ["demo", "tiny"])
def test_experiments(experiment):
    config, cells = planned(experiment)
    methods = {cell.method_name for cell in cells}
    seeds = {"random": 3, "sparsemm_shuffled": 3} if experiment == "tiny" else {}
    if experiment == "tiny":
        assert methods == set(DESIGNED)
    else:
        assert methods == {"fullkv", "streaming_llm", "snapkv", "pyramidkv", "adakv", "sparsemm", "random"}
    full = [cell for cell in cells if cell.method_name == "fullkv"]
    assert len(full) == len(config["tasks"])  # one a task, however many budgets
    lines = sum(seeds.get(method, 1) for method in methods - {"fullkv"})
    assert len(cells) == len(config["tasks"]) * (1 + lines * len(config["budget"]))


def planned(experiment):
    config = composed("sweep", f"experiment={experiment}")
    assert config["output"] == f"results/{experiment}"
    assert set(config["tasks"]) == set(TASK_FILES)
    cells = plan(config)
    assert len({cell.id for cell in cells}) == len(cells)
    return config, cells


def test_the_experiment_of_ablations():
    config, cells = planned("mask_ablation")
    assert {cell.method_name for cell in cells} == {"fullkv"}
    assert {cell.ablation.name for cell in cells if cell.ablation} == set(names("ablation"))
    fractions = [fraction for fraction in config["fraction"] if fraction]  # 0 is the model as it is
    assert len(cells) == len(config["tasks"]) * (1 + len(fractions) * (1 + 3 + 1 + 3))


def test_the_experiment_of_prompts():
    config, cells = planned("query_agnostic")
    evicting = [cell for cell in cells if cell.method.evicts]
    assert {cell.prompt for cell in evicting} == set(PROMPTS)
    lines = len({(cell.method_name, cell.prompt, cell.columns()["seed"]) for cell in evicting})
    assert len(cells) == len(config["tasks"]) * (1 + lines * len(config["budget"]))


def test_every_experiment_is_tested():
    assert set(names("experiment")) == {"demo", "tiny", "mask_ablation", "query_agnostic"}


@pytest.mark.parametrize("ablation", names("ablation"))
def test_ablations(ablation):
    config = composed("sweep", f"ablation={ablation}", "method=fullkv", "task=tiny_ocr", "fraction=[0,0.1]")
    assert config["ablations"] == {ablation: read("ablation", ablation)}
    plain, masked = plan(config)
    assert plain.ablation is None
    assert masked.ablation is not None
    assert (masked.ablation.name, masked.ablation.rule.count) == (ablation, 6)
    assert masked.ablation.rule.mode == ("uniform" if ablation.endswith("_uniform") else "remove")


@pytest.mark.parametrize("verb", ["sweep", "heads", "train_tiny", "efficiency"])
def test_verbs_leave_nothing_of_hydras_behind(verb):
    with initialize_config_dir(str(shipped("eval_configs")), **version_base()):
        config = compose(verb, return_hydra_config=True)
    assert config.hydra.output_subdir is None
    assert config.hydra.run.dir == "."
    assert config.hydra.job.chdir is False
    assert config.hydra.job_logging.root is None


@pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher/")
@pytest.mark.parametrize("launcher", names("hydra/launcher"))
def test_launchers(launcher):
    plugin = pytest.importorskip(f"hydra_plugins.{PLUGINS[launcher]}")
    with initialize_config_dir(str(shipped("eval_configs")), **version_base()):
        config = compose("sweep", [f"hydra/launcher={launcher}"], return_hydra_config=True)
    assert config.hydra.launcher._target_.startswith(plugin.__name__)
    if launcher in ("slurm", "local"):
        assert config.hydra.launcher.submitit_folder == "results/sweep/jobs/log"


def test_every_name_has_a_summary():
    for group in ("method", "model", "task", "ablation", "experiment", "benchmark", "hydra/launcher"):
        for name in names(group):
            assert summary(group, name).endswith((".", "?", ")", "."))
