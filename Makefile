# Everything happens in .venv, which is made on first use and again when the requirements change.
# Another interpreter: make test PYTHON=/usr/local/bin/python3.13

VENV ?= .venv
BIN = $(VENV)/bin
NEW_ENOUGH = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(NEW_ENOUGH)' 2>/dev/null && { echo "$$python"; break; }; done)

.PHONY: help test interop demo lint bench clean

help:
	@echo "make test     run the tests"
	@echo "make interop  run those with the real clients, which .ci/run installs into .interop"
	@echo "make demo     see it work, without an account: the proxy in front of a simulated upstream"
	@echo "make lint     ruff and mypy"
	@echo "make bench    measure"
	@echo "make clean    remove everything that these commands made"

# The real clients take minutes: not here, unless somebody asks for them.
test: $(VENV)/.installed
	@CCMPROXY_INTEROP_DIR=$${CCMPROXY_INTEROP_DIR-} $(BIN)/python -m twisted.trial tests

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
