# make quickstart: from nothing to a trained model.   make test: all checks of behaviour, a worker on each core.
# make check: a minute's worth of them, those of what changed and a spine.   make lint: style and types.
# make check SINCE=main: of all that changed since then.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN := runs/quickstart

.PHONY: install quickstart test check lint clean

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
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

check: install
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow" $$($(BIN)/python tests/changed.py $(SINCE))

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
