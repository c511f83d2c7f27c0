PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

# torch goes in first and alone: without a version pip may take a build with gigabytes of CUDA. Where this version's
# plain build has CUDA too, name PyTorch's index of CPU builds: make TORCH_INDEX=URL
TORCH       ?= torch==2.13.0
TORCH_INDEX ?=
PIP         := $(BIN)/python -m pip --disable-pip-version-check -qq

.PHONY: venv test lint demo benchmark clean

venv: $(READY)

$(READY): pyproject.toml
	@echo "Setting up $(VENV); the first time takes a few minutes."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "SimCVD needs Python 3.10 or newer: make PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)
	@$(PIP) install --editable '.[test]'
	@touch $@

test: $(READY)
	@$(BIN)/python -m pytest -n auto --dist worksteal

lint: $(READY)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

demo: $(READY)
	@$(BIN)/simcvd demo --output demo

benchmark: $(READY)
	@$(PIP) install --editable '.[benchmark]'
	@echo "Each benchmark is a script that prints its table; run one with $(BIN)/python:"
	@ls Testing/benchmarks/*.py

clean:
	rm -rf $(VENV) build demo simcvd.egg-info .pytest_cache .ruff_cache
	find SimCVDSegment SimCVDTrain Testing -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
