# What a newcomer runs. `make` alone lists the targets.
#
# Everything Python lives in .venv, with exact versions and hashes (requirements/). A stamp beside each
# installation is older than what it was made from, or nothing is installed again.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --no-input --disable-pip-version-check
# Tools that deploy/need had to bring itself are in the virtual environment; the system's own come first.
WITH_TOOLS := PATH="$$PATH:$(CURDIR)/$(BIN)"

# Test processes: they wait for etcd and agents more than they compute.
JOBS ?= 4
# More arguments for pytest, for instance ARGS="-k link -x".
ARGS ?=

RUN := $(VENV)/.run-installed
DEV := $(VENV)/.dev-installed
PACKAGE := $(VENV)/.package-installed

# An environment whose Python has gone (upgraded away, or moved) counts as none.
$(shell [ -x $(BIN)/python ] || rm -f $(RUN) $(DEV) $(PACKAGE))

.PHONY: help
help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

##### The demo

.PHONY: demo
demo: $(RUN) $(PACKAGE) ## two zones share a marketplace, on this machine; KEEP=1 leaves them running
	@exec setpriv --pdeathsig TERM $(BIN)/python -m demo $(if $(KEEP),--keep)

.PHONY: demo-stop
demo-stop: ## ends the zones that `make demo KEEP=1` left running
	@if [ -x $(BIN)/python ]; then exec $(BIN)/python -m demo --stop; else echo "No demo is running."; fi

##### Development

.PHONY: venv install
venv: $(DEV) $(PACKAGE) ## the virtual environment .venv with everything for development
install: $(RUN) $(PACKAGE) ## .venv with what running needs only
venv install:
	@echo "$(VENV) is ready."

.PHONY: check
check: $(DEV) $(PACKAGE) ## style, types, layers, generated docs; changes nothing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --package demo
	$(BIN)/mypy tests
	$(BIN)/lint-imports
	$(BIN)/python -m zone_agent.cli.docs --check
	deploy/check-addresses

.PHONY: test test-long simulate bench
test: $(DEV) $(PACKAGE) ## every test but the long ones, with real etcds
	@deploy/need etcd etcd34 etcd35 qemu-img
	$(WITH_TOOLS) $(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not long" $(ARGS)

test-long: $(DEV) $(PACKAGE) ## the tests that take longer than `make test` allows
	@deploy/need etcd etcd34 etcd35 qemu-img
	$(WITH_TOOLS) $(BIN)/python -m pytest -m long $(ARGS) || [ $$? -eq 5 ] # 5: none is marked so far

# How many seeds that nobody has tried yet; one that fails is kept in tests/simulation/seeds.txt.
SEEDS ?= 20

simulate: $(DEV) $(PACKAGE) ## plays SEEDS=20 new seeds of faults over the replication, 50 runs of 50 steps each
	$(BIN)/python -m tests.simulation $(SEEDS)

bench: $(DEV) $(PACKAGE) ## the figures of docs/benchmarks.md, on this machine; takes about half an hour
	@deploy/need etcd
	@for each in digests transfer replication scale fanout zone telemetry; do \
	    echo "== $$each"; $(WITH_TOOLS) $(BIN)/python -m tests.bench.$$each || exit 1; \
	done

.PHONY: proto docs lock
proto: $(RUN) ## generates the Python stubs of proto/ anew
	$(BIN)/python hatch_build.py

docs: $(DEV) $(PACKAGE) ## generates the reference pages of docs/ anew
	$(BIN)/python -m zone_agent.cli.docs

lock: $(DEV) ## resolves requirements/*.txt anew; UPGRADE=1 takes newer versions
	$(PIP) --require-hashes -r requirements/lock.txt
	deploy/lock $(if $(UPGRADE),--upgrade)

.PHONY: clean
clean: demo-stop ## removes what was built, and the demo's directory; keeps .venv
	rm -rf .demo build dist fedmarket/pb/etcd fedmarket/pb/fedmarket $(PACKAGE)
	rm -rf .cache .hypothesis .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

##### Installations

$(RUN): requirements/run.txt requirements/build.txt
	@deploy/venv $(VENV)
	@echo "Installing what fedmarket runs on into $(VENV) (once; up to a minute)"
	@$(PIP) --require-hashes -r requirements/run.txt -r requirements/build.txt
	@touch $@

# The development lock holds the same versions and more: what running needs is there too.
$(DEV): requirements/dev.txt
	@deploy/venv $(VENV)
	@echo "Installing what development needs into $(VENV) (once; up to two minutes)"
	@$(PIP) --require-hashes -r requirements/dev.txt
	@touch $@ $(RUN)

# The build generates the stubs, so a change of proto/ (a directory's time shows files gone or new) builds again.
$(PACKAGE): $(RUN) pyproject.toml hatch_build.py $(shell find proto -mindepth 1)
	@echo "Building fedmarket and its stubs"
	@$(PIP) --no-build-isolation --no-deps -e .
	@touch $@
