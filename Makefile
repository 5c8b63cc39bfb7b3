# Everything does its own set-up (tests/env/setup.sh): on a fresh Debian 12 as root, all of it; as an ordinary user what
# an ordinary user can, saying what is left out. What is large (engine, guest, pool) is kept in
# $CONDOR_STARTER_CACHE, /var/cache/condor-starter by default.

PYTHON ?= /usr/bin/python3
export PYTHON
SETUP := tests/env/setup.sh
SUITES := tests/env/suites.py
VENV = $$($(SETUP) where)
TESTS := test-unit test-system test-v1 test-user test-docker test-vm test-pool

.PHONY: help venv demo test $(TESTS) lint format bench promises lock clean distclean

help:
	@echo 'make demo           run a job by hand, see its output and its usage, and that nothing is left'
	@echo 'make test           every suite that this account can run, and lint; what CI runs'
	@echo 'make test-unit      no root, no environment'
	@echo 'make test-system    boxes on this kernel, crashes, attacks'
	@echo 'make test-v1        boxes where cgroup v1 is all there is'
	@echo 'make test-user      the same as an ordinary user (run by root)'
	@echo 'make test-docker    a private docker engine'
	@echo 'make test-vm        a pure cgroup v2 machine with systemd, in an emulated guest'
	@echo 'make test-pool      a real HTCondor pool; POOL_STARTER=genuine: its own starter, to try the tests'
	@echo 'make lint           ruff, mypy --strict'
	@echo 'make promises       the lists of tests in docs/promises.md, anew from the marks in the tests'
	@echo 'make bench          times and memory beside the peers that are installed'
	@echo 'make venv           only the Python environment; make lock: new versions of the locked dependencies'
	@echo 'make clean          what tests and tools left in the checkout; distclean: .venv and the cache, too'

venv:
	@$(SETUP) venv

demo: venv
	@tests/env/demo.sh

test: venv
	@$(PYTHON) $(SUITES) all

$(TESTS): test-%: venv
	@$(PYTHON) $(SUITES) $*

lint: venv
	@$(PYTHON) $(SUITES) lint

format: venv
	@tools=$$($(SETUP) tools) && $$tools/bin/ruff check --fix . && $$tools/bin/ruff format .

bench: venv
	@$(SETUP) bench
	@$(VENV)/bin/python tests/bench

promises: venv
	@$(VENV)/bin/python tests/promises.py

lock:
	@$(SETUP) lock

clean:
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@rm -rf .venv
	@rm -rf --one-file-system "$${CONDOR_STARTER_CACHE:-/var/cache/condor-starter}"
