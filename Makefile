# `make quickstart` and `make test` set everything up on a machine with Python >= 3.11, make and a C++ compiler.

PYTHON ?= python3
VENV ?= .venv
VENV_FLAGS ?=
JOBS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
TESTED := requirements/tested.txt
SOURCES := pyproject.toml setup.py $(TESTED)
NATIVE := $(shell find csrc/cpu csrc/cuda vtp_plugins/kernels/native -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh' -o -name '*.py' 2>/dev/null)

# Tests and recipes never reach for a hub, and several processes share the cores.
test slow soak examples wheel quickstart figures figures-all smoke sanitize: export HF_HUB_OFFLINE = 1
test slow soak examples wheel smoke sanitize: export OMP_NUM_THREADS = 1

# Parts of `make gpu`, with commas between; empty: all. It uses the environment if there is one, else PYTHON.
PARTS ?=
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

.PHONY: help setup dev native quickstart figures figures-all test slow soak lint format types layers check wheel examples smoke sanitize gpu ci ci-rest clean

help:  ## List the targets
	@awk -F ':.*## *' '/^[a-z-]+:.*##/ { printf "%-12s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(VENV)/.native  ## Virtual environment with the framework
dev: $(VENV)/.ready-dev $(VENV)/.native  ## The same with the tools of a developer

# A torch that is already there (VENV_FLAGS=--system-site-packages) is kept.
$(VENV)/.torch:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.version_info >= (3, 11) or sys.exit( \
	"Python " + v + " is too old: 3.11 or newer is needed; name one with make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV_FLAGS) $(VENV)
	$(BIN)/python -c 'import torch, torchvision' 2>/dev/null || $(PIP) install -c $(TESTED) torch torchvision
	$(PIP) install -q -c $(TESTED) setuptools wheel
	grep -v -E '^(torch|torchvision|triton)==' $(TESTED) > $(VENV)/constraints.txt
	@touch $@

$(VENV)/.ready: $(VENV)/.torch $(SOURCES)
	$(PIP) install -q --no-build-isolation -c $(VENV)/constraints.txt -e '.[offline]'
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) install -q --no-build-isolation -c $(VENV)/constraints.txt -e '.[offline,tensorboard,dev]'
	@touch $@

# The installation builds the kernels; this keeps them up to date. VTP_BUILD_EXT=1 makes a failure one of make.
$(VENV)/.native: $(VENV)/.ready $(NATIVE)
	$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

native: $(VENV)/.ready  ## Compile what changed in csrc/, or fail
	VTP_BUILD_EXT=1 $(BIN)/python setup.py -q build_ext --inplace

quickstart: $(VENV)/.native  ## Install, train a small tokenizer on real images, write its report
	$(BIN)/vtp run recipes/quickstart.toml --resume
	@echo "report: $(CURDIR)/runs/quickstart/report.html"
	@echo "next, a generator on its latents, in five minutes more: $(BIN)/vtp run recipes/quickstart_dit.toml"

# Too short for a sample to look like anything: that caching, training, sampling and the report work together.
SHORT_DIT := runs/quickstart_dit_short
figures: quickstart $(VENV)/.ready-dev  ## The quickstart, and whether it reaches what it should; 40 steps of its generator
	$(BIN)/vtp run recipes/quickstart_dit.toml --resume --out $(SHORT_DIT) -s run.steps=40 -s evaluate.limit=64 -s evaluators.generated.samples=64
	VTP_QUICKSTART=runs/quickstart VTP_QUICKSTART_DIT_SHORT=$(SHORT_DIT) $(BIN)/python -m pytest tests/policy/test_quickstart.py tests/policy/test_quickstart_dit.py

figures-all: figures  ## The same, its generator in full, and DINO-Tok's quickstart
	$(BIN)/vtp run recipes/quickstart_dit.toml --resume
	@echo "report: $(CURDIR)/runs/quickstart_dit/report.html"
	VTP_QUICKSTART_DIT=runs/quickstart_dit $(BIN)/python -m pytest tests/policy/test_quickstart_dit.py
	$(BIN)/vtp run recipes/dino_tok_quickstart.toml --resume
	@echo "report: $(CURDIR)/runs/dino_tok_quickstart/report.html; its encoder is EfficientNet-Lite0, a supervised stand-in for DINO"
	VTP_DINO_TOK_QUICKSTART=runs/dino_tok_quickstart $(BIN)/python -m pytest tests/policy/test_dino_tok_quickstart.py

test: $(VENV)/.ready-dev $(VENV)/.native  ## Unit and property tests (at most 6 minutes on 2 cores)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

slow: $(VENV)/.ready-dev $(VENV)/.native  ## The tests that `make test` leaves out
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m slow

soak: $(VENV)/.ready-dev $(VENV)/.native  ## 300 kills, stops and full disks: each run goes on and ends bit for bit the same
	$(BIN)/python -m tests.core.run.soak --faults 300

lint: $(VENV)/.ready-dev  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.ready-dev  ## Let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.ready-dev  ## mypy, strict in the core
	$(BIN)/mypy

layers: $(VENV)/.ready-dev  ## import-linter: who may import whom
	$(BIN)/lint-imports --no-logo

check: lint types layers test  ## What a change must pass (at most 10 minutes)

wheel: $(VENV)/.ready-dev  ## Build the wheel in isolation, install it elsewhere and use it
	rm -rf build dist
	$(PIP) wheel -q --no-deps -w dist .
	VTP_WHEEL="$$(ls dist/vtp_core-*.whl)" $(BIN)/python -m pytest tests/policy/test_wheel.py

examples: $(VENV)/.ready-dev  ## Install each example plugin beside the framework and run its tests
	@set -e; for plugin in examples/vtp-plugin-*; do \
	  rm -rf $(VENV)/example; \
	  $(PIP) install -q --no-deps --no-build-isolation --target $(VENV)/example ./$$plugin; \
	  PYTHONPATH=$(abspath $(VENV)/example) $(BIN)/python -m pytest $$plugin/tests; \
	done

smoke: $(VENV)/.ready-dev  ## Train every recipe of recipes/smoke for a few steps; part of `slow`
	$(BIN)/python -m pytest tests/recipes/test_smokes.py

sanitize: $(VENV)/.ready-dev  ## The C++ under the address and undefined-behaviour sanitizers; part of `slow`
	$(BIN)/python -m pytest tests/plugins/kernels/test_sanitizers.py

gpu:  ## On a machine with an NVIDIA GPU: build, test and measure there, in 5 minutes (PARTS=build,test,...)
	$(GPU_PYTHON) -m benchmarks.gpu --parts "$(PARTS)"

REST := slow wheel examples figures

ci:  ## Everything, with the minutes of each target
	@$(call in_turn,lint types layers test $(REST))

ci-rest:  ## `make ci` without `make test`
	@$(call in_turn,lint types layers $(REST))

# Makes targets one after the other and prints how long each took.
in_turn = times=""; for target in $(1); do start=$$(date +%s); $(MAKE) --no-print-directory $$target || exit 1; \
	took=$$(( $$(date +%s) - start )); times="$$times $$(printf '%s %d:%02d' $$target $$(( took / 60 )) $$(( took % 60 )))"; \
	done; echo "minutes:$$times"

clean:  ## Remove what the build made; keeps runs/ and the virtual environment
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
