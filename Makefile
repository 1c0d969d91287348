# Every target sets up what it needs first; the second time that takes no time. Try `make help`.

# A Python from 3.10 to 3.14; when none is named, the first that fits is taken (docs/versions.md: which were run).
PYTHON ?= python3
PYTHONS := $(if $(filter file default,$(origin PYTHON)),python3 python3.12 python3.11 python3.10 python3.13 python3.14,$(PYTHON))
VENV ?= .venv
# Another build of torch, for example: export TORCH_SPEC='torch==2.13.0+cpu' TORCH_INDEX_ARGS='--index-url ...'
TORCH_SPEC ?= torch==2.13.0
TORCH_INDEX_ARGS ?=
export VENV TORCH_SPEC TORCH_INDEX_ARGS

PY := $(VENV)/bin/python
BOOTSTRAP = python=$$(sh tools/env/find_python.sh $(PYTHONS)) && "$$python" tools/env/bootstrap.py

.PHONY: help setup setup-lint demo test test-all data real bench lint format clean distclean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-10s %s\n", $$1, $$2}' Makefile

setup: ## .venv with pinned packages, mmcv with its compiled operators, and this package
	@$(BOOTSTRAP)

setup-lint:
	@$(BOOTSTRAP) lint

demo: setup ## small data sets, training, evaluation and the table of dense against pruned, in work_dirs/demo
	@PATH="$$(cd "$(VENV)/bin" && pwd):$$PATH" bash tools/demo.sh

# The scans loop in Python: threads on top of that slow them down by a factor of ten and more. Processes do not.
PYTEST = OMP_NUM_THREADS=1 "$(PY)" -m pytest -n auto --maxprocesses 4 --dist loadfile

test: setup ## the quick tests; PYTEST_ARGS='...' adds arguments
	@$(PYTEST) $(PYTEST_ARGS)

test-all: setup ## the slow tests as well
	@$(PYTEST) -m '' $(PYTEST_ARGS)

data: setup ## the small data sets, in data/
	@"$(PY)" tools/dataset_tools/make_mini.py

real: setup ## photographs: train a dense Vim on data/camvid (docs/data.md) and prune it in six ways
	@"$(PY)" tools/evidence.py recipes --settings vim-camvid --seeds 0 --phase free \
		--out work_dirs/evidence/report

bench: setup ## speed of every scan backend and of the convolution over kept tokens; BENCH_ARGS='...' adds arguments
	@"$(PY)" tools/benchmarks/benchmark_scan.py $(BENCH_ARGS)

lint: setup-lint ## ruff check and ruff format --check
	@"$(PY)" -m ruff check .
	@"$(PY)" -m ruff format --check .

format: setup-lint ## apply ruff's fixes and format
	@"$(PY)" -m ruff check --fix .
	@"$(PY)" -m ruff format .

clean: ## remove caches and build leftovers; data, work_dirs and .venv stay
	@rm -rf build dist .pytest_cache .ruff_cache .hypothesis mmssmprune.egg-info
	@find mmssmprune tools tests configs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove .venv as well; the compiled mmcv stays in the user's cache
	@rm -rf "$(VENV)"
