# `make demo` and `make test` do all of their own set-up, in $(VENV); the system's Python is never
# touched. The set-up is .ci/environment.py, which stamps the environment with what it was installed
# for, and repairs one that is missing, half made, broken, moved or out of date.

PYTHON ?= python3
VENV ?= .venv

unexport PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE
RUN := "$(VENV)/bin/python" -m
PYTEST := $(RUN) pytest -n auto --maxprocesses 2 --dist worksteal

SHELL := bash
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-slow test-oldest mutants check bench bench-quick docs notebooks links setup-train setup-dev clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1: /p' Makefile

demo: setup-train ## compare the methods on a small task; the report goes into ./runs/
	"$(VENV)/bin/tsam-jax" compare demo --seeds 5

test: check ## formatting, lint, types, doctests, README's examples, all tests but the slow ones; logs into build/test.log
	@mkdir -p build
	set -o pipefail; $(PYTEST) -m "not slow" 2>&1 | tee -i build/test.log

test-slow: setup-dev ## the nightly tests: parity, tutorials, every page's examples, and others that take minutes
	$(PYTEST) -m slow

test-oldest: setup-train ## the same tests, with the oldest packages that pyproject.toml allows
	$(RUN) pip install --quiet uv
	$(RUN) uv venv --quiet --clear --python "$(VENV)/bin/python" "$(VENV)-oldest"
	$(RUN) uv pip install --quiet --python "$(VENV)-oldest" --resolution lowest-direct --editable ".[test]"
	"$(VENV)-oldest/bin/python" -m pytest -n auto --maxprocesses 2 --dist worksteal -m "not slow"

mutants: setup-dev ## break each method's core lines, and see that the tests notice
	"$(VENV)/bin/python" tests/mutants.py

check: setup-dev ## formatting, lint and types
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy

bench: setup-train ## what a step costs, in about 25 minutes (benchmarks/README.md)
	$(RUN) benchmarks --again
	$(RUN) benchmarks render

bench-quick: setup-train ## a rehearsal of it with a small model, into runs/benchmarks
	$(RUN) benchmarks --small

docs: setup-dev ## the documentation, into build/docs/index.html
	$(RUN) sphinx -W --keep-going -q -b html -d build/doctrees notebooks build/docs

notebooks: setup-dev ## run the tutorials in full, and keep their outputs
	"$(VENV)/bin/python" notebooks/execute.py

links: setup-dev ## write the badges and the address that `repository` in pyproject.toml makes
	"$(VENV)/bin/python" .ci/metadata.py

setup-train setup-dev: setup-%:
	@command -v "$(PYTHON)" >/dev/null || { echo "error: $(PYTHON) is not installed"; exit 1; }
	@"$(PYTHON)" .ci/environment.py "$(VENV)" $*

clean: ## remove what was made here; ./runs/ stays
	rm -rf .venv .venv-oldest build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
