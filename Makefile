# citybeat: `make help` lists the targets. ARGS="…" is passed on, for example: make demo ARGS="--for 30s"
#
# Everything is created inside the checkout: .venv from the lock files, and the servers under $(CITYBEAT_HOME) unless a Docker
# engine or URLs provide them. The only system packages that are installed, and only as root on a Debian-family system, are
# mmdebstrap and bubblewrap, and chromium for tests.

PYTHON ?= python3
CITYBEAT_HOME ?= .citybeat
CITYBEAT_TEST_ROOT ?= .citybeat/root
export CITYBEAT_HOME

VENV := .venv
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check --no-input
# Two jobs at once: pip needs the network and one core, unpacking the servers the other core.
TOGETHER := @$(MAKE) --no-print-directory --jobs=2

.PHONY: help demo unit test faults chaos lint bench bench-quick schema screenshots clean python root-demo root-test browser
.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: ## servers, ingest, API and a simulated city, until Ctrl-C; ARGS: options of `citybeat up`
	$(TOGETHER) $(VENV)/.demo root-demo
	@$(VENV)/bin/citybeat up $(ARGS)

unit: $(VENV)/.dev ## unit tests: no servers, no root, in less than a minute; ARGS: options of pytest
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal tests/unit $(ARGS)

test: ## all tests, against a real TimescaleDB and a real Mosquitto; ARGS: options of pytest
	$(TOGETHER) $(VENV)/.dev browser
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

faults: ## all cases of the fault matrix (`make test` runs some of them)
	$(TOGETHER) $(VENV)/.dev root-test
	@CITYBEAT_FAULTS=all $(VENV)/bin/python -m pytest -n 2 --dist worksteal -rP tests/acceptance/faults $(ARGS)

chaos: ## random sequences of faults; ARGS="--minutes 10 --seed 7"
	$(TOGETHER) $(VENV)/.dev root-test
	@$(VENV)/bin/python -m tests.acceptance.faults.chaos $(ARGS)

lint: $(VENV)/.dev ## ruff and mypy
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

bench: ## benchmarks, 20 minutes on two cores; parts: ARGS="--only store latency", largest sizes (50 minutes): ARGS=--full
	$(TOGETHER) $(VENV)/.dev root-test
	@CITYBEAT_TEST_ROOT="$(CITYBEAT_TEST_ROOT)" $(VENV)/bin/python -m bench $(ARGS)

bench-quick: ## the most important ratios, in two minutes; fails if one is below its limit
	$(TOGETHER) $(VENV)/.dev root-test
	@CITYBEAT_TEST_ROOT="$(CITYBEAT_TEST_ROOT)" $(VENV)/bin/python -m bench.quick

schema: ## storage/schema.sql, from what migrations and repeatable files give
	$(TOGETHER) $(VENV)/.dev root-test
	@CITYBEAT_WRITE_SCHEMA=1 $(VENV)/bin/python -m pytest -q tests/integration/test_schema.py -k picture

screenshots: ## pictures of the console for docs/, from a run of its own
	$(TOGETHER) $(VENV)/.dev browser
	@$(VENV)/bin/python -m tests.acceptance.console.screenshots $(ARGS)

clean: ## stop the servers, and delete everything that was created in the checkout
	@for home in "$(CITYBEAT_HOME)" .citybeat .citybeat/test; do \
	  if [ -d "$$home/run" ]; then $(PYTHON) -m citybeat.stack down "$$home" || true; fi; done
	@rm -rf $(VENV) .citybeat .pytest_cache .mypy_cache .ruff_cache .hypothesis dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The steps of an installation; the Dockerfile has the same ones.
$(VENV)/.demo: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing citybeat into $(VENV)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The lock file for development contains the other one.
$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing citybeat and its development tools into $(VENV)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.demo

$(VENV)/bin/python: | python
	@$(PYTHON) -m venv $(VENV)

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "citybeat needs Python 3.11 or newer, which '$(PYTHON)' is not. Name one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot create virtual environments. Install with: sudo apt-get install python3-venv" >&2; exit 1; }

# Unpacks the servers while pip works; does nothing if URLs or Docker provide them, or if it was done before.
root-demo: | python
	@if [ -z "$$CITYBEAT_DATABASE_URL" ] || [ -z "$$CITYBEAT_MQTT_URL" ]; then \
	  $(PYTHON) -m citybeat.stack prepare "$(CITYBEAT_HOME)/root"; fi

root-test: | python
	@if [ -z "$$CITYBEAT_TEST_DATABASE_URL" ] || [ -z "$$CITYBEAT_TEST_MQTT_URL" ]; then \
	  $(PYTHON) -m citybeat.stack prepare "$(CITYBEAT_TEST_ROOT)"; fi

# After the root, because only one apt-get can run at a time.
browser: root-test
	@$(PYTHON) -m citybeat.stack browser
