# make demo   watch one prompt being re-aligned        make test   everything CI runs
# make docs   the site, in site/                       make clean  remove what make made
# Each makes .venv when it is absent or older than pyproject.toml or constraints.txt.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PROMPT ?= a red car and a blue dog
SEED   ?= 43
OUT    ?= demo-out
# Two workers of one thread each: torch's own threads on top of them would fight over small machines.
PYTEST ?= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/realignkit run "$(PROMPT)" --seed $(SEED) --out "$(OUT)"
	@echo "Open $(OUT)/report.html in a browser."

test: lint
	$(PYTEST)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/mkdocs build --strict --quiet

docs: $(VENV)/installed-dev
	$(BIN)/mkdocs build --strict

# A stamp per set of extras; the extra ones contain the base.
$(VENV)/installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No python3 found: install Python 3.11 or later, or run make PYTHON=/path/to/python"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than Python 3.11: run make PYTHON=/path/to/a/newer/python"; exit 1; }
	test -x $(BIN)/python || "$(PYTHON)" -m venv $(VENV)
	@echo "Installing realignkit into $(VENV); the first time takes a few minutes …"
	$(PIP) -e .
	@touch $@

$(VENV)/installed-%: $(VENV)/installed
	$(PIP) -e ".[$*]"
	@touch $@

clean:
	rm -rf $(VENV) build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
