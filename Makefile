# `make` alone lists the targets. Each of them works from a clean clone: the first makes .venv and installs into it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow lint bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## import 28,000 airports in one process and hear of them in two others
	$(BIN)/python examples/airports/demo.py

test: $(VENV)/.ready ## run the tests
	$(BIN)/python -m pytest

test-slow: $(VENV)/.ready ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(VENV)/.ready ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.ready ## measure HonkerDatabase beside SqliteDatabase, the bus beside Honker's listener
	$(BIN)/python benchmarks/orm.py
	$(BIN)/python benchmarks/events.py

clean: ## remove .venv and what the tools leave
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.ready: setup.cfg pyproject.toml tools/install_honker.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	    { echo "no venv module: on Debian and Ubuntu, apt-get install python3-venv"; rm -rf $(VENV); exit 1; }
	$(BIN)/python tools/install_honker.py
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	$(BIN)/python -m compileall -q peewee_honker
	@touch $@
