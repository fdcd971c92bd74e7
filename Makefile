# `make train` and `make test` work on a fresh machine with Python 3.11 or later: they make .venv first.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: install train test lint check bench

install: $(INSTALLED)

# The stamp makes later calls instant, and a changed pyproject.toml install again.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set it as in: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq --editable '.[test]'
	@touch $@

# Fields are passed on: make train ARGS='bert_tiny --steps 100'
train: $(INSTALLED)
	$(BIN)/flaxmill train $(ARGS)

test: $(INSTALLED)
	$(BIN)/python -m pytest $(ARGS)

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

check: lint
	$(BIN)/python -m pytest -m 'not slow' -n 2

bench: $(INSTALLED)
	set -e; for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark; done
