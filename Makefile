# Everything here sets itself up: the first command that needs the environment makes it.
PYTHON ?= python3
VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow lint types docs bench vllm test-vllm test-browser clean

demo: $(READY)  ## train a sentiment adapter for SmolLM2-135M, compare it with the base, write runs/demo
	$(BIN)/trimtab demo

test: $(READY)  ## the fast tests
	$(BIN)/python -m pytest

slow: $(READY)  ## the tests that need the built-in model, its data, or the package registry
	$(BIN)/python -m pytest -m "slow or network" -o timeout=900

test-browser: $(READY)  ## the playground in a real Chromium (Debian's package chromium, or CHROMIUM=path)
	$(BIN)/python -m pytest -m browser tests/serving

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

vllm: $(VLLM)/.ready  ## an environment with vLLM and trimtab; .venv-vllm/bin/trimtab vllm POLICY serves a policy

test-vllm: $(VLLM)/.ready  ## the tests that run inside vLLM, and those of what holds the models
	$(VLLM)/bin/python -m pytest tests/engines tests/policies -o timeout=600

$(VLLM)/.ready: pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv $(VLLM)
	# On a GPU machine vLLM's own wheel; elsewhere its CPU build, whose requirements name packages that need CUDA.
	if command -v nvidia-smi > /dev/null; then \
	    $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check "vllm==0.32.*" --editable ".[eval,remote]" \
	        pytest pytest-timeout hypothesis; \
	else \
	    $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX) torch==2.13.0 && \
	    $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement constraints-vllm.txt && \
	    $(VLLM)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .; \
	fi
	touch $@

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	# torch first and alone, so that TORCH_INDEX can name an index of CPU builds without it serving anything else.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH_INDEX) --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[eval,train,harness,remote,serve,dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) $(VLLM) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
