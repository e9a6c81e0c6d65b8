# Everything that this project can be asked to do. `make` alone lists it.
# What a target makes is in .venv and in VAR_DIR; beside them only caches that git ignores.

PYTHON ?= python3
VAR_DIR ?= var
export VAR_DIR

BIN := .venv/bin
INSTALLED := .venv/installed
OURS := accel bench demo.key lab redis run run.lock spool vms

.DEFAULT_GOAL := help
.PHONY: help run test check bench faults lab clean packages

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1	/p' Makefile | expand -t 10

run: $(INSTALLED) ## start everything, with VMS (1) demo VMs, on 127.0.0.1:PORT (8000); Ctrl-C ends it
	@exec $(BIN)/python -m lab.run

test: $(INSTALLED) lab ## run every test: real Redis, real guest agent, real VM
	@exec $(BIN)/pytest

check: $(INSTALLED) ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: $(INSTALLED) lab ## the long fault run: kills, restarts, cuts; about 15 minutes; prints its seed and a table
	@exec $(BIN)/python -m tests.faults

bench: $(INSTALLED) lab ## measure the product against its baselines: a table, and VAR_DIR/bench/latest.json
	@$(BIN)/python -m bench.install
	@exec $(BIN)/python -m bench

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
$(INSTALLED): pyproject.toml constraints.txt | packages
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@
