# Everything that this project can be asked to do. `make` alone lists it.
# What a target makes is in .venv and in VAR_DIR; beside them only caches that git ignores.

PYTHON ?= python3
VAR_DIR ?= var
export VAR_DIR

BIN := .venv/bin
INSTALLED := .venv/installed
OURS := accel bench demo.key lab redis run run.lock spool uv vms

PIP := $(BIN)/pip install --quiet --disable-pip-version-check

# One lock for every Python from 3.11 on. Wheels only: to build one, pip would fetch what no lock names.
COMPILE := '$(VAR_DIR)/uv/bin/uv' pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 \
	--only-binary :all: --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links \
	--custom-compile-command 'make lock' $(if $(UPGRADE),--upgrade)

# What bandit says of every started program, and of /tmp. The lab and the benchmarks start only what they name themselves;
# /tmp is judged line by line for ruff, which says the same.
IN_THE_LAB := B108,B404,B603,B607

.DEFAULT_GOAL := help
.PHONY: help run test check bench faults lab lock clean packages

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 10

run: $(INSTALLED) ## start everything, with VMS (1) demo VMs, on 127.0.0.1:PORT (8000); Ctrl-C ends it
	@exec $(BIN)/python -m lab.run

test: $(INSTALLED) lab ## run every test: real Redis, real guest agent, real VM
	@exec $(BIN)/pytest

check: $(INSTALLED) ## ruff, mypy, import-linter, bandit, pip-audit
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive app workers
	$(BIN)/bandit --quiet --recursive --skip $(IN_THE_LAB) lab bench
	$(BIN)/python -m lab.advisories requirements-dev.lock lab/openstack_clients.lock

faults: $(INSTALLED) lab ## the long fault run: kills, restarts, cuts; about 15 minutes; prints its seed and a table
	@exec $(BIN)/python -m tests.faults

bench: $(INSTALLED) lab ## measure the product against its baselines: a table, and VAR_DIR/bench/latest.json
	@$(BIN)/python -m bench.install
	@exec $(BIN)/python -m bench

lock: ## write down the versions and hashes of all Python packages; UPGRADE=1 takes the newest
	$(PYTHON) -m venv '$(VAR_DIR)/uv'
	'$(VAR_DIR)/uv/bin/pip' install --quiet --disable-pip-version-check --upgrade uv
	$(COMPILE) pyproject.toml --extra build --extra dev --output-file requirements-dev.lock
	$(COMPILE) pyproject.toml --extra build --constraints requirements-dev.lock --output-file requirements.lock
	echo python-openstackclient | $(COMPILE) - --output-file lab/openstack_clients.lock

lab: $(INSTALLED) ## build the lab guest
	@exec $(BIN)/python -m lab.guest

clean: ## remove .venv and what is ours in VAR_DIR, unless `make run` is using it
	@mkdir -p '$(VAR_DIR)' && cd '$(VAR_DIR)' && flock --nonblock run.lock rm -rf $(OURS) || \
		{ echo '`make run` is using $(VAR_DIR): stop it first'; exit 1; }
	@rm -rf .venv

# Debian packages: looked at each time, installed when one is missing.
packages:
	@$(PYTHON) -m lab.install

# Python packages: again only when they are declared otherwise.
$(INSTALLED): pyproject.toml requirements-dev.lock | packages
	$(PYTHON) -m venv .venv
	$(PIP) --require-hashes --only-binary :all: -r requirements-dev.lock
	$(PIP) --quiet --no-deps --no-build-isolation -e .
	@touch $@
