# `make` alone explains the verbs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
# One version for all: its CPU and CUDA builds differ, so it has no hash; a plain `torch` would bring several GB of CUDA.
TORCH := torch==2.13.0

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

run: $(BIN)/.service ## serve the models in models/ on port 8000 (QUADRANT_PORT)
	@exec $(BIN)/python -m service serve

test: env ## every test
	$(BIN)/python -m pytest

check: env ## format, types, floors
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

env: $(BIN)/.development ## everything for training, export, tests and load, in .venv

load: env ## Locust against the service for 20 s; starts one if none answers
	$(BIN)/python -m loadtest.run

container-check: ## build the image, run it confined, post a photo, stop it
	deploy/container-check

lock: env ## write requirements/*.txt anew from *.in
	for name in service development; do \
	  $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --output-file requirements/$$name.txt requirements/$$name.in; done

clean: ## remove the environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python %d.%d found; expected 3.11 or newer" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv

$(BIN)/.service: requirements/service.txt | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

$(BIN)/.development: requirements/development.txt $(BIN)/.service
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r $<
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@

.PHONY: help run test check env load container-check lock clean
