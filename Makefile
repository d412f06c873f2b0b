# citybeat: make demo | test | faults | chaos | lint | bench | bench-quick | schema | screenshots | clean.  ARGS="…" is handed on, for example: make demo ARGS="--for 30s"
#
# Everything is made inside the checkout: .venv from the lock files, and the servers under $(CITYBEAT_HOME) unless a Docker
# engine or URLs provide them. Only as root on a Debian-family system, missing mmdebstrap and bubblewrap, and for tests chromium,
# are installed.

PYTHON ?= python3
CITYBEAT_HOME ?= .citybeat
CITYBEAT_TEST_ROOT ?= .citybeat/root
export CITYBEAT_HOME

VENV := .venv
PIP := $(VENV)/bin/python -m pip --quiet --disable-pip-version-check --no-input
# Two jobs at once: pip is busy with the network and one core, unpacking the servers with the other.
TOGETHER := @$(MAKE) --no-print-directory --jobs=2

.PHONY: demo test faults chaos lint bench bench-quick schema screenshots clean python root-demo root-test browser
.DEFAULT_GOAL := demo
.DELETE_ON_ERROR:

demo:
	$(TOGETHER) $(VENV)/.demo root-demo
	@$(VENV)/bin/citybeat up $(ARGS)

test:
	$(TOGETHER) $(VENV)/.dev browser
	@$(VENV)/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

# Every case of what can break (make test plays some of them), and random sequences of them: ARGS="--minutes 10 --seed 7"
faults:
	$(TOGETHER) $(VENV)/.dev root-test
	@CITYBEAT_FAULTS=all $(VENV)/bin/python -m pytest -n 2 --dist worksteal -rP tests/acceptance/faults $(ARGS)

chaos:
	$(TOGETHER) $(VENV)/.dev root-test
	@$(VENV)/bin/python -m tests.acceptance.faults.chaos $(ARGS)

lint: $(VENV)/.dev
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

# Some twenty minutes on two cores; parts: ARGS="--only store latency", the largest sizes, half an hour more: ARGS=--full
bench:
	$(TOGETHER) $(VENV)/.dev root-test
	@CITYBEAT_TEST_ROOT="$(CITYBEAT_TEST_ROOT)" $(VENV)/bin/python -m bench $(ARGS)

# Ratios to limits of the same run, in a minute or two; fails when one is below its bar.
bench-quick:
	$(TOGETHER) $(VENV)/.dev root-test
	@CITYBEAT_TEST_ROOT="$(CITYBEAT_TEST_ROOT)" $(VENV)/bin/python -m bench.quick

# storage/schema.sql, from what migrations give: after every change of storage/migrations or storage/repeatable.
schema:
	$(TOGETHER) $(VENV)/.dev root-test
	@CITYBEAT_WRITE_SCHEMA=1 $(VENV)/bin/python -m pytest -q tests/integration/test_schema.py -k picture

# Pictures of the console for docs/, from a run of its own.
screenshots:
	$(TOGETHER) $(VENV)/.dev browser
	@$(VENV)/bin/python -m tests.acceptance.console.screenshots $(ARGS)

clean:
	@for home in "$(CITYBEAT_HOME)" .citybeat .citybeat/test; do \
	  if [ -d "$$home/run" ]; then $(PYTHON) -m citybeat.stack down "$$home" || true; fi; done
	@rm -rf $(VENV) .citybeat .pytest_cache .mypy_cache .ruff_cache .hypothesis dist *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The steps of an installation; the Dockerfile takes the same ones.
$(VENV)/.demo: requirements.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing citybeat into $(VENV)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

# The lock for development contains the other one.
$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(VENV)/bin/python
	@echo "installing citybeat and its development tools into $(VENV)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@ $(VENV)/.demo

$(VENV)/bin/python: | python
	@$(PYTHON) -m venv $(VENV)

python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "citybeat needs Python 3.11 or newer, and '$(PYTHON)' is not. Give one: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments. Install with: sudo apt-get install python3-venv" >&2; exit 1; }

# Unpack the servers ahead, while pip works; nothing to do where URLs or Docker provide them, or when it was done before.
root-demo: | python
	@if [ -z "$$CITYBEAT_DATABASE_URL" ] || [ -z "$$CITYBEAT_MQTT_URL" ]; then \
	  $(PYTHON) -m citybeat.stack prepare "$(CITYBEAT_HOME)/root"; fi

root-test: | python
	@if [ -z "$$CITYBEAT_TEST_DATABASE_URL" ] || [ -z "$$CITYBEAT_TEST_MQTT_URL" ]; then \
	  $(PYTHON) -m citybeat.stack prepare "$(CITYBEAT_TEST_ROOT)"; fi

# After the root: two that install packages at once would be in each other's way.
browser: root-test
	@$(PYTHON) -m citybeat.stack browser
