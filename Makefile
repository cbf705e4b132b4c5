# make quickstart: from nothing to a trained model.   make test: all checks of behaviour, a worker on each core.
# make check: a minute's worth of them, those of what changed and a spine.   make lint: style and types.
# make check SINCE=main: of all that changed since then.   make docs: the site, in site/; make docs-serve: the same, while it is written.
# make gpu-dry: the GPU's script, as far as a CPU can try it.   make other-processor: the core of the tests as if on another.
# make reference: the pages that are made from the code.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
RUN := runs/quickstart
# a file is one worker's, which makes its fixtures once; in the order of tests/conftest.py
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

.PHONY: install quickstart test check lint gpu-dry other-processor docs docs-serve reference clean

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
	$(PYTEST)

check: install
	$(PYTEST) -m "not slow" $$($(BIN)/python tests/changed.py $(SINCE))

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

gpu-dry: install
	bash benchmarks/gpu.sh --dry

other-processor: install
	$(BIN)/python tests/instruction_sets.py --core other

# mkdocs' next version will not take this theme, which says so in a box before each build; pyproject asks for the present one
docs docs-serve: export NO_MKDOCS_2_WARNING = 1

docs: .venv/.docs
	$(BIN)/mkdocs build --strict
	@echo "open site/index.html; its search needs a server: make docs-serve"

docs-serve: .venv/.docs
	$(BIN)/mkdocs serve --strict

.venv/.docs: .venv/.installed
	$(BIN)/pip install --quiet --editable ".[docs]"
	touch $@

reference: install
	$(BIN)/python docs/make_reference.py
	$(BIN)/python docs/make_api.py
	$(BIN)/python docs/make_commands.py

clean:
	rm -rf .venv runs site .pytest_cache .mypy_cache .ruff_cache
