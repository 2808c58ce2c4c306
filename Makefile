# `make scale` and `make test` each do all the set-up themselves, once.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

# Set before any import: litellm would fetch a price list, MLflow would phone home, and two OpenMP
# threads beside worker threads are far slower than one.
export LITELLM_LOCAL_MODEL_COST_MAP := True
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export OMP_NUM_THREADS := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup scale test soak check format lint types ui bench golden clean

help: ## show the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.installed ## install everything into .venv (the other targets do it themselves)

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || command -v python3 >/dev/null || { echo "error: Python 3.11 is needed; pass PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "[1/3] creating $(VENV)"
	@if command -v $(PYTHON) >/dev/null; then $(PYTHON) -m venv $(VENV); else python3 -m venv $(VENV); fi
	@$(BIN)/python -c 'import sys; sys.exit(0 if sys.version_info[:2] >= (3, 11) else "error: Python 3.11 or newer is needed, this is %d.%d; pass PYTHON=/path/to/python3.11" % sys.version_info[:2])'
	@touch $@

# torch first and by itself: pinned, so that no other package's range picks another build.
$(VENV)/.torch: $(VENV)/.python constraints.txt
	@echo "[2/3] installing $$(grep '^torch==' constraints.txt)"
	@$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	@touch $@

$(VENV)/.installed: $(VENV)/.torch pyproject.toml constraints.txt
	@echo "[3/3] installing personaagent and its pinned dependencies (about two minutes)"
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

scale: $(VENV)/.installed ## the scaling study on the sample users (ARGS="--users 10 ..." to change it)
	@$(BIN)/python experiments/scale.py $(ARGS)

test: $(VENV)/.installed ## all tests
	@$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 $(ARGS)

soak: $(VENV)/.installed ## 100 kills -9 of a study, where the tests make 20 (KILLS=... to change it)
	@KILLS=$${KILLS:-100} $(BIN)/python -m pytest --numprocesses 2 tests/faults/test_kill.py $(ARGS)

check: lint types test ## format, lint, types and tests: what a change must pass

format: $(VENV)/.installed ## rewrite the sources in the house format
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: build/installed ## ruff and the import rules
	@echo "ruff format --check" && $(BIN)/ruff format --check .
	@echo "ruff check" && $(BIN)/ruff check .
	@echo "lint-imports" && cd build/installed && PYTHONPATH=. $(CURDIR)/$(BIN)/lint-imports --no-cache --no-logo --config $(CURDIR)/pyproject.toml

types: build/installed ## mypy, strict, on the installed package
	@echo "mypy (installed package)"
	@cd build/installed && MYPYPATH=. $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir $(CURDIR)/build/mypy -p personaagent

# A wheel that is really installed: it also shows a sub-package that pyproject.toml forgot.
.PHONY: build/installed
build/installed: $(VENV)/.installed
	@rm -rf build/lib build/bdist* $@ && $(BIN)/python -m pip install --quiet --no-deps --target $@ .

ui: $(VENV)/.installed ## MLflow's UI on what has been run (http://127.0.0.1:5000)
	@mkdir -p runs
	@echo "MLflow UI on runs/mlflow.db: http://127.0.0.1:$${PORT:-5000}  (Ctrl-C stops it)"
	@$(BIN)/mlflow ui --backend-store-uri sqlite:///runs/mlflow.db --host 127.0.0.1 --port $${PORT:-5000} --workers 1

bench: $(VENV)/.installed ## benchmarks: ratios against a named floor, in one run
	@$(BIN)/python experiments/bench.py $(ARGS)

golden: $(VENV)/.installed ## rewrite tests/golden/ after a deliberate change of a prompt (read the diff)
	@GOLDEN_REWRITE=1 $(BIN)/python -m pytest tests/programs/test_golden_prompts.py

clean: ## remove what the build made; runs/ and .venv stay
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
