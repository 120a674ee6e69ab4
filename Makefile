# `make` alone explains the verbs.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
# One version for all: its CPU and CUDA builds differ, so it has no hash; a plain, unpinned `torch` may be any of them.
TORCH := torch==2.13.0
# OpenVINO's plugin (160 MB) is installed where it helps: on x86-64 Linux with AMX. OPENVINO=1 or OPENVINO=0 decides otherwise.
OPENVINO ?= $(shell [ "$$(uname -sm)" = 'Linux x86_64' ] && grep -qs amx_int8 /proc/cpuinfo && echo 1 || echo 0)
SERVICE := service$(if $(filter 1,$(OPENVINO)),-openvino)
NATIVE := service/native/libnative.so
LOCKS := service service-openvino service-cuda export load development $(patsubst requirements/%.in,%,$(filter-out %/common.in,$(wildcard requirements/compare/*.in)))

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

run: $(BIN)/.$(SERVICE) ## serve the models in models/ on port 8000 (QUADRANT_PORT), as quadrant.env says if it is there
	@exec $(BIN)/python -m loadtest.envfile quadrant.env $(BIN)/python -m service serve

test: env ## every test
	$(BIN)/python -m pytest

check: env ## style, types, floors
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

env: $(BIN)/.development ## everything in .venv: service, training, export, tests, load

export: $(BIN)/.export ## what `python -m export` needs (PyTorch too), in .venv

load: $(BIN)/.load ## Locust against the service for 20 s; starts one if none answers (LOAD="--rate 20")
	$(BIN)/python -m loadtest.run $(LOAD)

bench: $(BIN)/.export wrk ## speed over HTTP next to the machine's own limit, 20 min (CHECK=1: exit 1 if too slow; BENCH="--quick")
	$(BIN)/python -m loadtest.bench $(if $(CHECK),--check) $(BENCH)

compare: $(BIN)/.export wrk ## this service next to five others, 15 min and 1.5 GB in runs/compare (COMPARE="--quick")
	$(BIN)/python -m loadtest.compare $(COMPARE)

curve: $(BIN)/.load $(BIN)/.export ## latency against the rate of Poisson arrivals, up to the knee (CURVE="--seconds 30")
	$(BIN)/python -m loadtest.curve $(CURVE)

tune: $(BIN)/.load $(BIN)/.export wrk ## settings with the highest rate within a p99, into quadrant.env (SLO_P99_MS=200 MINUTES=10)
	$(BIN)/python -m loadtest.tune --slo-p99-ms $(or $(SLO_P99_MS),$(error expected the p99 to keep, in ms: make tune SLO_P99_MS=200)) \
	  $(if $(MINUTES),--minutes $(MINUTES)) $(TUNE)

profile: $(BIN)/.load $(BIN)/.export wrk ## where each microsecond of a request goes (PROFILE="--flames runs/profile")
	$(BIN)/python -m loadtest.profile $(PROFILE)

wrk:
	@command -v wrk >/dev/null || { as=$$([ "$$(id -u)" = 0 ] || echo sudo -n); command -v apt-get >/dev/null && \
	    { $$as apt-get install --yes --quiet wrk || { $$as apt-get update && $$as apt-get install --yes --quiet wrk; }; }; } || \
	  { echo 'wrk is missing and was not installed; expected the Debian package "wrk" (as root: apt-get install wrk)' >&2; exit 1; }

container-check: ## build the image, run it confined, post a photo, stop it
	@deploy/container-check

lock: env ## write requirements/*.txt anew from *.in
	for name in $(LOCKS); do \
	  $(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links \
	    --no-emit-trusted-host --output-file requirements/$$name.txt requirements/$$name.in; done

clean: ## remove the environment and caches
	rm -rf $(NATIVE) .venv .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python %d.%d; expected 3.11 or newer: make PYTHON=python3.11 …" % sys.version_info[:2])'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

# What is installed is noted in a stamp, so that it is installed once; a newer lock file installs it again.
$(BIN)/.$(SERVICE): requirements/$(SERVICE).txt | $(BIN)/python $(NATIVE)
	$(PIP) --require-hashes -r $<
	@touch $@

# Not made where there is no C compiler; Pillow then does its work.
$(NATIVE): $(wildcard service/native/*.[ch]) service/native/build
	@service/native/build

$(BIN)/.load: requirements/load.txt $(BIN)/.$(SERVICE)
	$(PIP) --require-hashes -r $<
	@touch $@

$(BIN)/.export: requirements/export.txt $(BIN)/.$(SERVICE)
	$(PIP) --require-hashes -r $<
	$(PIP) $(TORCH)
	@touch $@

$(BIN)/.development: requirements/development.txt $(BIN)/.export $(BIN)/.load
	$(PIP) --require-hashes -r $<
	@touch $@

.PHONY: help run test check env export load bench compare curve tune profile wrk container-check lock clean
