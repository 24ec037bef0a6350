# Everything starts here: `make demo`, `make test`, `make lint`. Each sets up what it needs and is quick the second time.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

.PHONY: help setup demo test test-full lint format constraints docs dist clean

help:  ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## Virtual environment in .venv with every extra, pinned by constraints.txt.

# uv is fetched by pip into the environment itself: it installs in seconds and links files instead of copying them.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "spacecompile needs Python 3.11 or newer; this is $$($(PYTHON) -V). Set PYTHON=python3.12, for example."; exit 3; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo "could not make a virtual environment; on Debian or Ubuntu: sudo apt-get install python3-venv"; exit 3; }
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check "uv==0.13.9"
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup  ## Frames, build, predict, bench: a page and pictures to look at.
	@$(BIN)/spacecompile demo

# A worker that dies fails the run at once: pytest-xdist waits for ever for the tests of one that it replaced (3.8).
test: setup  ## The test suite; what needs a GPU is left out.
	@$(BIN)/python -m pytest -n 2 --dist loadgroup --max-worker-restart 0 -m "not slow and not gpu"

test-full: setup  ## The test suite with the slow tests and, where there is one, the GPU.
	@$(BIN)/python -m pytest

lint: setup  ## ruff, mypy --strict, import contracts, docstring entries, documents.
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python .ci/entries.py spacecompile
	@$(BIN)/python .ci/cli_pages.py --check || { echo "docs/cli.md is not current. Run: make docs"; exit 1; }
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: setup  ## Let ruff rewrite the sources.
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

constraints: setup  ## Write constraints.txt anew from pyproject.toml.
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --no-annotate --no-header --upgrade \
		pyproject.toml -o constraints.txt

docs: setup  ## Write tables from the newest results file and commands from their help, then the site into site/.
	@$(BIN)/python -m spacecompile.benchmarks.report.readme_tables README.md docs/results.md \
		"$$(ls spacecompile/benchmarks/results/reference_*.json | sort | tail -n 1)"
	@$(BIN)/python .ci/cli_pages.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html is there; its search needs a server: $(BIN)/python -m http.server -d site"

dist: setup  ## Wheel and source archive under dist/.
	@$(BIN)/python -m build --installer uv

clean:  ## Remove everything that the targets made.
	rm -rf $(VENV) dist demo site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
