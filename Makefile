# make quickstart: from nothing to a trained model.   make test: all checks of behaviour.   make lint: style and types.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN := runs/quickstart

.PHONY: install quickstart test lint clean

install: .venv/.installed

.venv/.installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

quickstart: install
	rm -rf $(RUN)
	$(BIN)/manyview plan quickstart
	$(BIN)/manyview train quickstart --out $(RUN)
	$(BIN)/manyview views quickstart --count 4 --out $(RUN)/views.png

test: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
