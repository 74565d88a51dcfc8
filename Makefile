# Everything runs in .venv, which the first call makes and later calls reuse.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PACKAGE := $(VENV)/.package
TOOLS := $(VENV)/.tools

# The versions that are installed; without this file the newest that pyproject.toml allows.
LOCK := $(wildcard constraints.txt)

# With uv where it is on the PATH (quicker), else with pip. In both, what packages are built with is locked too.
UV := $(shell command -v uv 2>/dev/null)
ifneq ($(UV),)
INSTALL := uv pip install --quiet --python $(BIN)/python $(if $(LOCK),--constraint $(LOCK) --build-constraint $(LOCK))
else
INSTALL := PIP_CONSTRAINT=$(LOCK) PIP_BUILD_CONSTRAINT=$(LOCK) $(BIN)/python -m pip install --quiet --use-pep517
endif

.PHONY: demo test lint notebooks lock newest oldest core uv clean

# Measure every cell of a small grid, then draw it: the table and the figures' paths end the output.
demo: $(PACKAGE)
	$(BIN)/sparsemm sweep experiment=demo
	$(BIN)/sparsemm figures results/demo

# All tests, the slow ones too. One thread for each of the workers: two pools of threads on two cores thwart each other.
test: $(TOOLS)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

lint: $(TOOLS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Run the notebooks' text (analysis/*.py) and store them beside it with what they show.
notebooks: $(TOOLS)
	$(BIN)/python -m tests.analysis.notebooks

clean:
	rm -rf $(VENV) .venv-newest .venv-oldest results/demo build dist .pytest_cache .ruff_cache .hypothesis
	find sparsemm tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is written last, so that an interrupted installation starts again.
$(PACKAGE): pyproject.toml tests/environment/repair_torchvision.py $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(if $(UV),,@test -z "$$UV_TORCH_BACKEND" || { echo "UV_TORCH_BACKEND is heeded by uv alone: pip install uv" >&2; exit 1; })
	@echo "installing into $(VENV), only this once: a few minutes, 2 GB on disk, 7 GB where torch comes with CUDA"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable . $(RANGES)
	$(BIN)/python tests/environment/repair_torchvision.py
	@touch $@

$(TOOLS): $(PACKAGE)
	@echo "installing the tools of development, only this once"
	$(INSTALL) --editable '.[dev,joblib,ray,slurm]' $(RANGES)
	@touch $@

# Does a cut of the tests pass without the lock: with the newest versions that pyproject.toml allows (PRE=1: of these three the
# coming ones too), and with the oldest that it names?
COMING := 'hydra-core>=1.3.2a0' 'omegaconf>=2.3a0' 'transformers>=5.17a0' 'lmms-eval>=0.7.3a0'
newest:
	rm -rf .venv-newest
	$(MAKE) core VENV=.venv-newest LOCK= RANGES="$(if $(PRE),$(COMING))"

oldest: uv
	rm -rf .venv-oldest
	$(MAKE) core VENV=.venv-oldest LOCK= RANGES=--resolution=lowest-direct

# Every room's core, and lmms-eval's command line.
CORE := tests/methods/test_sparsemm.py tests/cache/test_storage.py tests/cache/test_life.py tests/documents/test_page.py \
	tests/models/test_prompts.py tests/tiny/test_checkpoint_format.py tests/heads/test_attention.py tests/heads/test_scores.py \
	tests/efficiency/test_shapes.py tests/evaluation/test_sweep.py tests/evaluation/test_model.py tests/evaluation/test_lmms_eval.py \
	tests/figures/test_save.py tests/report/test_page.py tests/test_cli.py tests/test_configs.py
core: $(TOOLS)
	$(BIN)/sparsemm doctor
	$(BIN)/sparsemm sweep experiment=demo limit=8 output=$(VENV)/demo
	$(BIN)/sparsemm figures $(VENV)/demo
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile $(CORE)

# Renew constraints.txt: it keeps its versions and takes up what pyproject.toml newly wants. Delete it first to take the newest of
# everything but tests/environment/pins.txt.
lock: uv
	unset UV_TORCH_BACKEND; uv pip compile --quiet --universal --python-version 3.11 --all-extras --no-annotate \
		--custom-compile-command 'make lock' --constraint tests/environment/pins.txt --output-file constraints.txt pyproject.toml

uv:
	@$(if $(UV),:,echo "this needs uv: pip install uv" >&2; exit 1)
