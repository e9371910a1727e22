# Everything here sets itself up: the first command that needs the environment makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow lint types docs bench clean

demo: $(READY)  ## train a sentiment adapter for SmolLM2-135M, compare it with the base, write runs/demo
	$(BIN)/trimtab demo

test: $(READY)  ## the fast tests
	$(BIN)/python -m pytest

slow: $(READY)  ## the tests that need the built-in model, its data, or the package registry
	$(BIN)/python -m pytest -m "slow or network" -o timeout=900

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)  ## regenerate the pages that come from docstrings
	$(BIN)/python docs/generate.py

bench: $(READY)  ## speed and memory against the loops people write with transformers
	$(BIN)/trimtab bench
	$(BIN)/python benchmarks/memory.py

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and alone, so that TORCH_INDEX can name an index of CPU builds without it serving anything else.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[eval,train,harness,remote,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
