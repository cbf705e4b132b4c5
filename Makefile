# make quickstart: from nothing to a trained model.   make test: all checks of behaviour, a worker on each core.
# make check: a minute's worth of them.               make lint: style and types.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN := runs/quickstart
SPINE := $(addprefix tests/,test_grammar.py test_views.py test_heads.py test_step.py engine/test_engine.py \
	evaluate/test_evaluate.py evaluate/test_fewshot.py test_train.py::test_result_is_what_best_gives_on_the_test_images)

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
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(SPINE)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache
