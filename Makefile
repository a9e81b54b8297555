# The house's commands. `make help` lists them.

PORT ?= 3000
VENV := .venv
BIN := $(VENV)/bin

# The interpreter that .venv is made with: the first of these that runs and is 3.11 to 3.13.
PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3; do \
  $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
  && echo $$python && break; done)

# torch is for training, export and tests, never for serving. On Linux plain PyPI answers with a CUDA
# build of several GB, so the CPU build is asked for first, without its dependencies (they come from
# PyPI as usual); where that index cannot be reached, pip goes on with what it does reach. A GPU?
#   make test TORCH=torch==2.13.0
TORCH ?= torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu --retries 1

TYPED := dra_serve app training export benchmarks docs

.DEFAULT_GOAL := help
.PHONY: help run test check format docs golden dist bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(VENV)/.serve ## install what serving needs (never torch) and serve the bundled pair on PORT (3000)
	@$(BIN)/dra-serve serve --port $(PORT)

test: $(VENV)/.test ## every test, the browser's included (needs Debian's chromium); ARGS= goes to pytest
	$(BIN)/python -m pytest $(ARGS)

check: $(VENV)/.test ## format, lint, types, generated docs up to date
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(TYPED)
	$(BIN)/python -m docs.tables --check

format: $(VENV)/.test ## rewrite the sources in the house's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.serve ## rewrite the tables that are generated from receipts, and the receipt's schema
	$(BIN)/python -m docs.tables

golden: $(VENV)/.test ## measure the golden robust accuracies of the bundled pair again; review the diff
	$(BIN)/python -m tests.golden.robust_accuracy

dist: $(VENV)/.test ## wheel and sdist in dist/
	rm -rf dist
	$(BIN)/python -m build

bench: $(VENV)/.test ## every benchmark: both sides in one run, ratios with their spread
	@for benchmark in benchmarks/*.py; do echo "== $$benchmark"; $(BIN)/python $$benchmark || exit 1; done

clean: ## remove what make made, .venv included; runs/ stays
	rm -rf $(VENV) dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# Stamps: a second `make run` starts at once, and a changed pyproject.toml installs again.
# Editable, so that the commands in training/ and export/ find their rooms, and a `git pull` is live.
$(VENV)/.serve: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[serve,ui]'
	@touch $@

$(VENV)/.test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --no-deps $(TORCH)
	$(BIN)/python -m pip install --quiet --editable '.[serve,ui,onnx,eval,train,test]'
	@touch $@ $(VENV)/.serve

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No Python 3.11, 3.12 or 3.13 found; name one: make run PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
