# Each target does all its own set-up: a virtual environment in .venv with the pinned packages.
# Needs Python 3.11 or newer with venv, and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: demo test e2e bench lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.run          ## the whole way in a made-up internet on loopback
	$(BIN)/tlsrpt demo

test: $(VENV)/.test         ## every test that needs no root
	$(BIN)/python -m pytest -n 2 --dist loadgroup --ignore tests/lab $(PYTEST_ARGS)

e2e: $(VENV)/.test          ## real mail servers from Debian's packages in a network namespace: root, on Debian
	$(BIN)/python -m pytest tests/lab $(PYTEST_ARGS)

bench: $(VENV)/.test        ## how fast, against yardsticks and peers: docs/performance.md
	$(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

lint: $(VENV)/.test         ## style, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

clean:
	rm -rf $(VENV) .lab .bench dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: conf/requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r conf/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.test: tests/requirements.txt $(VENV)/.run
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@
