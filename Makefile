# `make` alone lists the targets. Each of them works from a clean clone: the first makes .venv and installs into it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.NOTPARALLEL: # two targets at once would run pip twice in one .venv
.DELETE_ON_ERROR: # a .venv that was not finished is made again
.PHONY: help demo test test-slow test-lowest test-browser test-services lint docs bench clean no-python

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.ready-demo ## import 28,000 airports in one process and hear of them in two others
	$(BIN)/python examples/airports/demo.py

# Most tests wait for other processes for most of their time.
test: $(VENV)/.ready-test ## run the tests
	$(BIN)/python -m pytest -n 4

test-slow: $(VENV)/.ready-test ## run the tests, also those that take minutes, with all examples of every law
	PEEWEE_HONKER_LAWS=all $(BIN)/python -m pytest -n 2 -m 'not soak and not browser and not services'

test-lowest: ## run the tests of database, signals and schemas on the oldest versions of what we stand on
	PIP_CONSTRAINT=tests/lowest.txt $(MAKE) VENV=$(VENV)-lowest $(VENV)-lowest/.ready-test
	$(VENV)-lowest/bin/python -m pytest -n 4 tests/test_database.py tests/test_equality.py tests/test_transactions.py \
	    tests/test_signals.py tests/test_bus.py tests/test_schemas_*.py

test-browser: $(VENV)/.ready-browser ## run the tests that need Chromium (Debian: apt-get install chromium-driver)
	$(BIN)/python -m pytest -m browser -rs

test-services: $(VENV)/.ready-services ## run the tests on servers of their own (Debian: apt-get install postgresql redis-server)
	$(BIN)/python -m pytest -m services -rs

lint: $(VENV)/.ready-services ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.ready-docs ## build the API reference into build/reference
	$(BIN)/python tools/build_reference.py

bench: $(VENV)/.ready-bench ## measure HonkerDatabase beside SqliteDatabase, the bus beside Honker's listener
	$(BIN)/python benchmarks/orm.py
	$(BIN)/python benchmarks/events.py
	$(BIN)/python benchmarks/capture.py
	$(BIN)/python benchmarks/storage.py
	$(BIN)/python benchmarks/schemas.py
	$(BIN)/python benchmarks/calls.py
	$(BIN)/python benchmarks/hub.py
	$(BIN)/python benchmarks/scale.py

clean: ## remove .venv and what the tools leave
	rm -rf $(VENV) $(VENV)-lowest build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The package with one of the extras of setup.cfg, made again when what says how to install changes.
$(VENV)/.ready-%: $(VENV)/pyvenv.cfg setup.cfg pyproject.toml tools/install_honker.py
	$(BIN)/python tools/install_honker.py
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	$(BIN)/python -m compileall -q peewee_honker
	@touch $@

# Made anew when the Python it was made with has gone.
$(VENV)/pyvenv.cfg: $(if $(realpath $(BIN)/python),,no-python)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, for instance: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
	    { echo "$(PYTHON) cannot make a virtual environment: on Debian and Ubuntu, apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
