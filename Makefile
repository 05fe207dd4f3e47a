# make setup | quickstart | test | test-all | fast | lint | docs | lock | wheel | bench | bench-gpu. Needs Python 3.11 or later; writes to
# .venv, build/, dist/ and runs/. docs/install.md explains TORCH, TORCH_INDEX, LOCKED and PYTHON.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHON TORCH TORCH_INDEX LOCKED
RUN ?= runs/quickstart
BENCH ?= runs/bench
BENCH_GPU ?= runs/bench-gpu
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup quickstart test test-all fast lint docs docs-links lock wheel bench bench-gpu

setup:
	@bash tools/setup_environment.sh $(VENV)

quickstart: setup
	$(BIN)/surgvivqa quickstart --run $(RUN)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not long" tests

# With the benchmarks' own tests, the builder of the base, cross-validation, random kills and the tutorial.
test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests

fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not long" tests

# The documentation site, in build/docs; a broken link between its pages is an error. docs-links looks up the others.
docs: setup
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs build/docs

docs-links: setup
	$(BIN)/python -m sphinx -b linkcheck -q docs build/docs-links

# The versions of .venv, after the tests have passed in it.
lock: setup
	$(BIN)/python tools/lock_environment.py

wheel: setup
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

# About ten minutes on two cores. BENCH_FLAGS="--size small" tests the benchmark itself in a minute.
bench: setup
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	$(BIN)/python -m benchmarks.run --out $(BENCH) $(BENCH_FLAGS)

# At most four minutes on one GPU; needs no network. BENCH_FLAGS="--device cpu --size small" tests the benchmark itself.
bench-gpu: setup
	$(BIN)/python -W ignore -m benchmarks.gpu --out $(BENCH_GPU) $(BENCH_FLAGS)
