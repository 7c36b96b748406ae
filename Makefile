# The interpreter, and the torch to install: GPU users override TORCH (make TORCH=torch).
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

export SCIPY_ARRAY_API ?= 1
export PYTHONHASHSEED ?= 0

.PHONY: demo test test-all bench docs lint clean

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@

$(VENV)/.stamp-docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[docs]"
	touch $@

$(VENV)/.stamp-bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --editable ".[bench]"
	touch $@

demo: $(STAMP)
	$(BIN)/python -m skfunc.demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# Array shapes are checked at run time in the tests of the torch floors.
SHAPE_TESTS := tests/nn tests/training

test: lint
	SKFUNC_CHECK_SHAPES=1 $(BIN)/python -m pytest $(SHAPE_TESTS) -m "not slow"
	$(BIN)/python -m pytest --doctest-modules skfunc tests -m "not slow" -n 2 \
		$(addprefix --ignore=,$(SHAPE_TESTS))

test-all: lint
	SKFUNC_CHECK_SHAPES=1 $(BIN)/python -m pytest $(SHAPE_TESTS)
	$(BIN)/python -m pytest --doctest-modules skfunc tests -n 2 \
		$(addprefix --ignore=,$(SHAPE_TESTS))

# Two benchmarks in full; of the others a small form that leaves the recorded results
# alone: it shows that they run, and roughly what they say.
SMALL := --results $(VENV)/bench
FIGURES := --figures $(VENV)/bench

bench: $(VENV)/.stamp-bench
	$(BIN)/python benchmarks/solvers.py
	$(BIN)/python benchmarks/memory_depth.py
	$(BIN)/python benchmarks/sde_solvers.py --quick
	$(BIN)/python benchmarks/tabular.py
	mkdir -p $(VENV)/bench
	$(BIN)/python benchmarks/fit_time.py --repeats 1 $(SMALL)
	$(BIN)/python benchmarks/infinite_width.py --quick
	$(BIN)/python benchmarks/large_n.py --quick
	$(BIN)/python benchmarks/predict_cost.py --quick
	$(BIN)/python benchmarks/density_ffjord.py --quick
	$(BIN)/python benchmarks/density_growth.py --quick
	$(BIN)/python benchmarks/latent_ode.py --quick
	$(BIN)/python benchmarks/latent_ode_cost.py --quick
	$(BIN)/python benchmarks/latent_ode_hopper.py --quick
	$(BIN)/python benchmarks/latent_ode_co2.py --quick
	SKFUNC_CACHE=$(VENV)/bench $(BIN)/python benchmarks/neural_process_1d.py --seconds 10 \
		--tasks 64 --few 8 --no-peer $(SMALL) $(FIGURES)
	$(BIN)/python benchmarks/bayesian_optimization.py --functions 5 --steps 300 $(SMALL)
	$(BIN)/python benchmarks/wheel_bandit.py --agents exact linear --trials 2 $(SMALL)
	$(BIN)/python benchmarks/real_bandits.py --sets mushroom --trials 2 --rounds 300 \
		$(SMALL)
	$(BIN)/python benchmarks/digits_shift.py --seeds 1 $(SMALL) $(FIGURES)
	$(BIN)/python benchmarks/sde_images.py --sets mnist --rows 500 --test-rows 100 \
		--seconds 2 $(SMALL) $(FIGURES)
	$(BIN)/python benchmarks/gpu.py --quick

docs: $(VENV)/.stamp-docs
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

clean:
	rm -rf $(VENV) docs/_build docs/auto_examples docs/generated docs/sg_execution_times.rst skfunc-demo dist .mypy_cache .ruff_cache .pytest_cache
