# Everything happens in .venv, which is made on first use and again when the requirements change.
# Another interpreter: make test PYTHON=/usr/local/bin/python3.13

VENV ?= .venv
BIN = $(VENV)/bin
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(NEW_ENOUGH)' 2>/dev/null && { echo "$$python"; break; }; done)

# Processes that run tests side by side.
JOBS ?= 2
TRIAL = $(BIN)/python -m twisted.trial -j$(JOBS)
# Not in `make test`: what starts whole programs, and what needs the real clients, which take minutes.
FOLDERS = $(filter-out tests/system tests/interop,$(patsubst %/__init__.py,%,$(wildcard tests/*/__init__.py)))
UNIT = $(subst /,.,$(FOLDERS) $(basename $(wildcard tests/test_*.py)))
PROPERTIES = $(subst /,.,$(basename $(shell grep -rl --include='test_*.py' '^from hypothesis' tests)))

.PHONY: help test test-all test-system test-deep fuzz interop demo lint bench clean

help:
	@echo "make test       run the tests, all within their own process: the same ones with the same data every time"
	@echo "make test-all   run these and tests/system (make test-system), which start whole programs"
	@echo "make test-deep  try properties with five times as much data, at random; SEED=N repeats a run"
	@echo "make fuzz       give damaged input to all that reads what strangers send, for MINUTES=10"
	@echo "make interop    run the tests with the real clients, which .ci/run installs into .interop"
	@echo "make demo       see it work, without an account: the proxy in front of a simulated upstream"
	@echo "make lint       ruff and mypy"
	@echo "make bench      measure"
	@echo "make clean      remove everything that these commands made"

test: $(VENV)/.installed
	@$(TRIAL) $(UNIT)

test-all: $(VENV)/.installed
	@$(TRIAL) $(UNIT) tests.system

test-system: $(VENV)/.installed
	@$(TRIAL) tests.system

test-deep: $(VENV)/.installed
	@seed=$${SEED:-$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')}; \
	echo "The seed is $$seed; once more: make test-deep SEED=$$seed"; \
	CCMPROXY_HYPOTHESIS=deep CCMPROXY_HYPOTHESIS_SEED=$$seed $(TRIAL) $(PROPERTIES)

# Minutes for which parsers are given damaged input; TARGETS="http yamux" for some of them.
MINUTES ?= 10
fuzz: $(VENV)/.installed
	@$(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(TARGETS)

interop: $(VENV)/.installed
	@$(BIN)/python -m twisted.trial tests.interop

demo: $(VENV)/.installed
	@$(BIN)/ccmproxy demo $(DEMO)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	@$(BIN)/python -m bench $(BENCH)

clean:
	rm -rf $(VENV) .build build dist *.egg-info .interop .mypy_cache .ruff_cache .hypothesis _trial_temp*
	find ccmproxy tests bench twisted -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

$(VENV)/.installed: pyproject.toml setup.cfg
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' 2>/dev/null || { \
		echo "ccmproxy needs Python 3.11 or newer, and found none; name one: make test PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Installing ccmproxy and what its tests need into $(VENV); this happens once."
	@"$(PYTHON)" -m venv $(VENV) || { \
		rm -rf $(VENV); echo "$(PYTHON) cannot make a venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@
