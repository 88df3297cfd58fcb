# `make run` and `make test` do the whole set-up themselves; a second call installs nothing.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RECIPE ?= quickstart
ARGS   ?=

.PHONY: run test lint bench soak setup setup-dev lock clean

run: setup ## the whole pipeline on this machine: local Ray, local storage, SQLite MLflow
	$(BIN)/tessera run $(RECIPE) $(ARGS)

test: setup-dev ## every test but the soak
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest $(ARGS)

lint: setup-dev ## ruff and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup-dev ## each benchmark prints one JSON object
	for bench in input step; do $(BIN)/python tests/bench/$$bench.py || exit 1; done

soak: setup-dev ## an hour: a hundred drawn faults, and machines that come and go (SOAK_FAULTS, SOAK_SEED, SOAK_LOSSES)
	$(BIN)/python -m tests.fault.soak $(ARGS)
	$(BIN)/python -m tests.fault.elastic

setup: $(VENV)/.installed
setup-dev: $(VENV)/.installed-dev

# torch comes first and by its pin, so that whichever build the index serves (CPU or CUDA) satisfies everything after it.
# DeepSpeed is built against that torch, without its optional ops: nothing is compiled here.
$(VENV)/.installed: requirements.lock pyproject.toml pipeline/data/jpeg_crop.c
	$(PYTHON) -m venv $(VENV)
	$(PIP) $$(grep -E '^(pip|setuptools|wheel)==' requirements.lock)
	$(PIP) $$(grep -E '^(torch|numpy)==' requirements.lock)
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(PIP) --no-build-isolation -r requirements.lock
	$(PIP) --no-build-isolation --no-deps --editable .
	touch $@

$(VENV)/.installed-dev: requirements-dev.lock $(VENV)/.installed
	$(PIP) -r requirements-dev.lock
	touch $@

# Exact versions of a fresh installation of what pyproject.toml asks for, without torch's CUDA packages.
lock:
	infra/lock.sh

clean: ## remove the environment, caches and default outputs
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis runs build *.egg-info
