# Every target makes what it needs, from a machine with python3 (3.11 or newer), g++ and make.
#
#   make serve        install, then serve SmolLM2 on http://127.0.0.1:8000 (ARGS="--port 9000")
#   make check        lint, format, types, import contract, every module imports
#   make check-native kernel tests under the address and undefined-behaviour sanitizers
#   make test-fast    tests without the slow ones; before every commit
#   make test         all tests
#   make faults       promises in their long form: a line of each that was kept (8 minutes)
#   make example      README's tuning example, from a CSV to answers (about 2 minutes)
#   make docs         the documentation site, in site/
#   make peers        the engines that benchmarks compare with, in .venv-bench
#   make bench        speed against llama.cpp, OpenVINO and transformers (BENCH_ARGS="--json FILE")
#   make wheel        a wheel for machines without a compiler, in dist/
#   make clean        remove everything that was made

PYTHON ?= python3
ARGS ?=
BENCH_ARGS ?=
PYTEST_ARGS ?=

BIN := .venv/bin
NATIVE := CMakeLists.txt $(shell find native -type f 2>/dev/null)
MINIMAL := .venv/.minimal-is-installed
DEV := .venv/.dev-is-installed
PEERS := .venv-bench/.peers-are-installed
SET_UP := PYTHON=$(PYTHON) tools/set_up.sh

.PHONY: serve check check-native test-fast test faults example docs peers bench wheel clean
.DELETE_ON_ERROR:
.NOTPARALLEL:

# The model travels while the compiler runs, unless another one is asked for.
serve: export PREFETCH := $(if $(ARGS),,smollm2)
serve: $(MINIMAL)
	@exec $(BIN)/yearling serve $(ARGS)

check: $(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q -m "not slow" tests/architecture

check-native: $(DEV)
	@tools/check_native.sh

test-fast: $(DEV)
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal \
	  -m "not (slow or network or faults or browser or example)" $(PYTEST_ARGS)

# Tests that kill processes or measure time run alone, after the others. Those are cut into two halves,
# so that most of a module's tests share what it sets up; whoever is done takes of the other's.
test: $(DEV)
	@$(SET_UP) browser
	@$(SET_UP) tracer
	@$(BIN)/python -m pytest -q -n 2 --dist worksteal \
	  -m "not (faults or browser or example)" $(PYTEST_ARGS)
	@$(BIN)/python -m pytest -q -m "(faults and not slow) or browser" $(PYTEST_ARGS)

faults: $(DEV)
	@$(SET_UP) tracer
	@$(BIN)/python -m pytest -q -m "faults or promised" $(PYTEST_ARGS)

# The README's training example, judged by its answers: some six minutes on a quiet machine.
example: $(DEV)
	@$(BIN)/python -m pytest -q -s -m example tests/docs $(PYTEST_ARGS)

docs: $(DEV)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "The documentation is in site/index.html."

peers: $(PEERS)

bench: $(MINIMAL) peers
	@$(BIN)/yearling bench serving --peers llama.cpp,openvino,transformers $(BENCH_ARGS)

wheel: $(MINIMAL)
	@$(SET_UP) wheel

clean:
	rm -rf .venv .venv-bench build dist site .pytest_cache .mypy_cache .ruff_cache \
	  .import_linter_cache .hypothesis
	find src tests benchmarks tools -name __pycache__ -type d -exec rm -rf {} +

$(MINIMAL): pyproject.toml constraints.txt tools/set_up.sh $(NATIVE)
	@$(SET_UP) minimal
	@touch $@

$(DEV): $(MINIMAL)
	@$(SET_UP) dev
	@touch $@

$(PEERS): $(wildcard benchmarks/*/requirements.txt) tools/set_up.sh
	@$(SET_UP) peers
	@touch $@
