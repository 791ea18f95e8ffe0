PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LMMS := .venv-lmms
TORCH := $(shell grep '^torch==' constraints.txt)
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types docs notebooks lmms clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

# torch is installed first and alone: see constraints.txt.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --constraint constraints.txt '$(TORCH)'
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(STAMP) ## install everything into .venv

demo: $(STAMP) ## run the full pipeline on the synthetic dataset and write a report
	$(BIN)/aligngpt run synthetic --output runs/synthetic

test: $(STAMP) ## run the tests, two processes at a time
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(STAMP) ## check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## check types
	$(BIN)/mypy

docs: $(STAMP) ## build the documentation site into build/docs; warnings are errors
	$(BIN)/sphinx-build -q -W --keep-going -b html docs build/docs
	@echo "build/docs/index.html"

notebooks: $(STAMP) ## run the notebooks, on photographs where ../shared has some
	$(if $(wildcard ../shared/photos),PHOTOS=$(abspath ../shared/photos)) $(BIN)/jupyter-execute --timeout=900 notebooks/*.ipynb

# lmms-eval brings a hundred packages, so it has its own environment. torchvision is removed: see constraints-lmms.txt.
$(LMMS)/.installed: pyproject.toml constraints-lmms.txt
	$(PYTHON) -m venv $(LMMS)
	$(LMMS)/bin/python -m pip install --quiet --constraint constraints-lmms.txt '$(TORCH)'
	$(LMMS)/bin/python -m pip install --quiet --constraint constraints-lmms.txt lmms-eval pytest --editable .
	$(LMMS)/bin/python -m pip uninstall --quiet --yes torchvision
	@touch $@

lmms: $(LMMS)/.installed ## test the lmms-eval integration in its own environment, .venv-lmms
	$(LMMS)/bin/python -m pytest -q tests/lmms

clean: ## remove environments, caches and builds, but not runs
	rm -rf $(VENV) $(LMMS) build dist .mypy_cache .pytest_cache .ruff_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
