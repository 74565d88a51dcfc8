# Everything runs in .venv, which the first call makes and later calls reuse.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint notebooks clean

# Measure every cell of a small grid, then draw it: the table and the figures' paths end the output.
demo: $(INSTALLED)
	$(BIN)/sparsemm sweep experiment=demo
	$(BIN)/sparsemm figures results/demo

# All tests, the slow ones too. One thread for each of the workers: two pools of threads on two cores thwart each other.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=4 --dist=loadfile

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# Run the notebooks' text (analysis/*.py) and store them beside it with what they show.
notebooks: $(INSTALLED)
	$(BIN)/python -m tests.analysis.notebooks

clean:
	rm -rf $(VENV) results/demo build dist .pytest_cache .ruff_cache .hypothesis
	find sparsemm tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that an interrupted installation starts again.
$(INSTALLED): pyproject.toml tests/environment/repair_torchvision.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "installing into $(VENV): about 4 GB on disk, a few minutes, only this once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	$(BIN)/python tests/environment/repair_torchvision.py
	touch $@
