# make setup | quickstart | test | fast | lint | bench | bench-gpu. Needs Python 3.11 or later; writes to .venv and runs/.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
RUN ?= runs/quickstart
BENCH ?= runs/bench
BENCH_GPU ?= runs/bench-gpu
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: setup quickstart test fast lint bench bench-gpu

setup: $(VENV)/.ready

# torch first, so that TORCH chooses its version and build.
$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
	touch $@

quickstart: setup
	$(BIN)/python -m surgvivqa.quickstart --run $(RUN)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests

fast: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow" tests

# About ten minutes on two cores. BENCH_FLAGS="--size small" tests the benchmark itself in a minute.
bench: setup
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	$(BIN)/python -m benchmarks.run --out $(BENCH) $(BENCH_FLAGS)

# At most four minutes on one GPU; needs no network. BENCH_FLAGS="--device cpu --size small" tests the benchmark itself.
bench-gpu: setup
	$(BIN)/python -W ignore -m benchmarks.gpu --out $(BENCH_GPU) $(BENCH_FLAGS)
