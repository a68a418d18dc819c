# One door for everything: `make help`.
# PYTHON=/path/to/python3.12 chooses the interpreter of the environment .venv.

SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
RUN := $(VENV)/.stamp-run
DEV := $(VENV)/.stamp-dev
BENCH := $(VENV)/.stamp-bench
DOCS := $(VENV)/.stamp-docs
STUDIES := docs/guide/studies
PYTHON ?=
JOBS ?= auto
ONLY ?=

.DEFAULT_GOAL := help
.PHONY: help demo check test test-oldest bench docs studies onnx-conformance clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' Makefile

demo: $(RUN) ## train lenet-bn on the built-in sample, evaluate it, predict a few pictures
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/demo.sh

check: $(DEV) ## format, lint, types, import rules and the fast tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo
	@$(BIN)/python -m pytest -q -n $(JOBS) -m "not slow"

test: $(DEV) ## all tests; ONLY=slow: those that `make check` leaves out
	@$(BIN)/python -m pytest -q -n $(JOBS) $(if $(ONLY),-m "$(ONLY)")

test-oldest: ## all tests with the oldest releases that pyproject.toml allows
	@PYTHON="$(PYTHON)" scripts/setup.sh --oldest .venv-oldest test
	@.venv-oldest/bin/python -m pytest -q -n $(JOBS)

bench: $(BENCH) ## measure speed beside PyTorch, ONNX Runtime, OpenVINO, ncnn and JAX: half an hour to an hour
	@$(BIN)/python -m bench

docs: $(DOCS) ## build the guide as a site, English and Chinese, into site/; its Python is run
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "site/index.html"

studies: $(RUN) ## run all studies anew; their pictures and figures go into the guide
	@$(BIN)/striate study all --json --out $(STUDIES) > $(STUDIES)/figures.tmp
	@$(BIN)/python -m json.tool --no-ensure-ascii $(STUDIES)/figures.tmp $(STUDIES)/figures.json
	@rm $(STUDIES)/figures.tmp
	@$(BIN)/python scripts/shrink_pictures.py $(STUDIES)/*.png

onnx-conformance: $(DEV) ## run the official cases of ONNX and write their table into docs/onnx.md
	@$(BIN)/python -m striate.onnx.conformance docs/onnx.md

clean: ## remove the environments and what the tools leave behind; runs/ stays
	rm -rf .venv .venv-oldest build dist site .pytest_cache .mypy_cache .ruff_cache
	rm -rf .import_linter_cache .hypothesis
	find src tests examples scripts bench -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# A stamp is older than pyproject.toml when the dependencies may have changed.
$(RUN): pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" scripts/setup.sh $(VENV) ""
	@touch $@

$(DEV): pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" scripts/setup.sh $(VENV) dev
	@touch $@

$(BENCH): pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" scripts/setup.sh $(VENV) bench
	@touch $@

$(DOCS): pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" scripts/setup.sh $(VENV) docs
	@touch $@
