# `make demo` and `make test` do their own setup; `make help` lists the rest.
# INSTALL.md says what the variables are for.

PYTHON ?= python3
VENV_FLAGS ?=
CONSTRAINTS ?= constraints.txt
WHEEL_DIR ?=
# A test process per core, up to 4, each with the files of tests it takes next.
PYTEST_FLAGS ?= --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
# Settings of this machine, in place of the ones above.
-include local.mk

VENV := .venv
RUN := $(VENV)/bin/python
DONE := $(VENV)/ita-setup-done
# There while pip works: a setup that was killed starts again from an empty .venv, since pip takes
# a package for installed whose files are half there.
BEGUN := $(VENV)/ita-setup-begun
PIP_FLAGS := $(addprefix -c ,$(CONSTRAINTS)) $(addprefix --no-index --find-links ,$(WHEEL_DIR))

.PHONY: help setup demo test test-all lint format clean clean-venv
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':[^#]*## ' '/^[a-z-]+:[^#]*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

setup: $(DONE) ## make .venv and install everything into it

$(DONE): requirements.txt constraints.txt pyproject.toml ita/installing.py
	@if [ -e $(BEGUN) ] || ! $(RUN) -m pip --version >/dev/null 2>&1; then \
	  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || { \
	    echo "make setup: '$(PYTHON)' is no Python 3.10 or newer ($$($(PYTHON) -V 2>&1));" \
	      "name one, as in: make setup PYTHON=python3.11" >&2; \
	    exit 1; \
	  }; \
	  $(PYTHON) -m venv --clear $(VENV_FLAGS) $(VENV); \
	fi
	@echo "Installing the requirements into $(VENV); the first time takes some minutes."
	@touch $(BEGUN)
	@trap 'exit 1' INT TERM; \
	  $(RUN) -m pip install --quiet --quiet -r requirements.txt $(PIP_FLAGS) && \
	  $(RUN) -m ita install-detectron2 $(addprefix --wheel-dir ,$(WHEEL_DIR)) || \
	  { rm -f $(BEGUN); exit 1; }
	@rm -f $(BEGUN)
	@touch $@

demo: setup ## train, resume and evaluate a small ITA on drawn scenes
	@$(RUN) -m ita toy demo

test: lint ## what CI runs: format, lint, types, tests
	@$(RUN) -m pytest $(PYTEST_FLAGS)

test-all: lint ## the same with the slow tests
	@$(RUN) -m pytest -m "" $(PYTEST_FLAGS)

lint: setup ## check format, lint and types
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .
	@$(RUN) -m mypy

format: setup ## format the code and mend what ruff can
	@$(RUN) -m ruff format .
	@$(RUN) -m ruff check --fix .

clean: ## remove caches
	@rm -rf .pytest_cache .ruff_cache .mypy_cache build ita.egg-info
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

clean-venv: ## remove .venv, for instance before setup with another Python
	@rm -rf $(VENV)
