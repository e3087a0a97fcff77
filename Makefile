# From a fresh clone to a fitted scaling law. `make` alone lists what there is.
# Every target first makes the environment it needs (.venv, scripts/setup.sh), once; after that this takes no time.

FAMILY  ?= uniform
SWEEP   ?= desk
OUT     ?= runs
# Left empty, these are not passed on: the sweep then runs on this machine and fits read its own ledger.
ADDRESS ?=
STORE   ?=
DATA    ?=
ARGS    ?=
WORKERS ?= 2

BIN := .venv/bin
SCALING := $(BIN)/scaling
# A value as one word of the shell, whatever stands in it.
quoted = '$(subst ','\'',$(1))'
FAMILIES = $(foreach family,$(FAMILY),--family $(call quoted,$(family)))
# A name is one that ships with the package; what ends in .yaml is a file.
WHICH = $(if $(filter %.yaml %.yml,$(lastword $(SWEEP))),--config,--sweep) $(call quoted,$(SWEEP)) $(if $(DATA),--data $(call quoted,$(DATA))) --out $(call quoted,$(OUT))
# The default of FAMILY does not count for what looks at all families that were swept, unless some are named.
NAMED = $(if $(filter command environment,$(firstword $(origin FAMILY))),$(FAMILIES))
FROM = $(if $(STORE),--store $(call quoted,$(STORE)))

# Some containers forbid Python to keep its compiled files; every start then takes twice as long.
unexport PYTHONDONTWRITEBYTECODE
# What has a main and takes no arguments; the others are parts of these, or measure no speed and are run by hand.
BY_HAND = coverage beyond gaps repeats correction entropy rules transfer
BENCHMARKS = $(filter-out steps $(BY_HAND),$(basename $(notdir $(shell grep -l '__main__' benchmarks/*.py))))
# Tests run several processes on few cores: one thread each, or they wait for each other.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST = $(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup sweep plan tune fit compare ask report dashboard notebook docs test test-all bench lint format clean run-ready tune-ready dev-ready notebook-ready docs-ready

help: ## list these targets
	@echo "usage: make TARGET [NAME=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "  FAMILY=uniform|ar|masked|esoteric|block|hybrid|gaussian, or several: FAMILY='ar masked'"
	@echo "  SWEEP=desk|evening|smoke|... or a .yaml file   DATA=text of your own: a file or a folder"
	@echo "  OUT=folder   STORE=where the runs are read from   ADDRESS=Ray cluster (none: this machine)"
	@echo "  ARGS='...' goes to the scaling command as it is; .venv/bin/scaling --help lists everything"

setup: run-ready ## create .venv with the run-time packages (the others do it themselves)

plan: run-ready ## show FAMILY's runs, their cost and what is already done
	$(SCALING) plan $(WHICH) $(FAMILIES) $(ARGS)

sweep: run-ready ## train FAMILY's runs, fit the law, draw the figures; again: carries on
	$(SCALING) sweep $(WHICH) $(FAMILIES) $(if $(ADDRESS),--address $(call quoted,$(ADDRESS))) $(ARGS)

tune: tune-ready ## try rates and batches for FAMILY by Optuna, and write the rule for sweeps to use
	$(SCALING) tune $(call quoted,$(firstword $(FAMILY))) $(WHICH) $(if $(ADDRESS),--address $(call quoted,$(ADDRESS))) $(ARGS)

fit: run-ready ## fit FAMILY's law again from the runs that are there
	$(SCALING) fit $(WHICH) $(FAMILIES) $(FROM) $(ARGS)

compare: run-ready ## compute that each swept family needs over ar to reach the same loss
	$(SCALING) compare $(WHICH) $(NAMED) $(FROM) $(ARGS)

ask: run-ready ## which family and size a budget should buy, how sure: make ask BUDGET=1e20
	$(SCALING) ask $(WHICH) $(NAMED) $(FROM) $(if $(BUDGET),$(call quoted,$(BUDGET))) $(ARGS)

report: run-ready ## one HTML file with every swept family's laws, figures and comparison; needs no network
	$(SCALING) report $(WHICH) $(NAMED) $(FROM) $(ARGS)

dashboard: run-ready ## a page with all families' laws that keeps itself up to date; Ctrl-C ends it
	$(SCALING) dashboard $(WHICH) $(NAMED) $(FROM) $(ARGS)

notebook: notebook-ready ## run the notebooks in fresh kernels and save them as pages
	$(BIN)/python scripts/notebook.py analysis/notebooks/fit_laws.ipynb build/notebooks
	$(BIN)/python scripts/notebook.py analysis/notebooks/compare_families.ipynb build/notebooks

docs: docs-ready ## build the documentation as a site, build/site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

test: dev-ready ## the quick tests
	$(PYTEST) -m "not slow and not gpu and not chaos" $(ARGS)

test-all: dev-ready ## every test, with those that take minutes, kill processes or need a GPU
	$(PYTEST) $(ARGS)

bench: run-ready ## measure speed: every script of benchmarks/ in turn, one at a time
	@set -e; for name in $(BENCHMARKS); do echo "bench: $$name"; $(BIN)/python -m benchmarks.$$name $(ARGS); done

lint: dev-ready ## formatter (checking only), linter and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: dev-ready ## let the formatter rewrite the files
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove caches and build outputs; never runs/, nor .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find scaling sweeps analysis benchmarks scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo clean: results under $(call quoted,$(OUT))/ and the environment .venv are still there, to be removed by hand

run-ready:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh run
tune-ready:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh tune
notebook-ready:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh notebook
docs-ready:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh docs
dev-ready:
	@PYTHON="$(PYTHON)" sh scripts/setup.sh dev
