PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LMMS := .venv-lmms
TORCH := $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types lmms clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

# torch goes first and alone: see constraints.txt.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt '$(TORCH)'
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP) ## install everything into .venv

demo: $(STAMP) ## the whole way on the embedded world; prints the results and the page's path
	$(BIN)/aligngpt run scenes --output runs/scenes

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -q

lint: $(STAMP) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## check types
	$(BIN)/mypy

# lmms-eval brings a hundred packages, which is why it is kept apart; torchvision goes again: see constraints-lmms.txt.
$(LMMS)/.installed: pyproject.toml constraints-lmms.txt
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet --constraint constraints-lmms.txt '$(TORCH)'
	$(LMMS)/bin/python -m pip install --quiet --constraint constraints-lmms.txt lmms-eval pytest --editable .
	$(LMMS)/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

lmms: $(LMMS)/.installed ## run the tests of the lmms-eval model in an environment of their own, .venv-lmms
	$(LMMS)/bin/python -m pytest -q tests/lmms

clean: ## remove .venv, caches and builds; runs stay
	rm -rf $(VENV) $(LMMS) build dist .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
