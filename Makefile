# Two commands for a fresh machine: `make demo`, `make test`.
.PHONY: install demo test test-all check bench bench-peers lock clean

# Another Python in a virtual environment of its own: make test PYTHON=python3.13 VENV=.venv-newest
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
STAMP := $(VENV)/.installed

install: $(STAMP)

# Everything comes from the lock, by hash; what follows needs no network. uv, itself from the lock, takes seconds where pip
# takes minutes; where uv cannot reach the index that pip is set up for, pip does it.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info < (3, 14), "nextbar needs Python 3.11 to 3.13; try: make PYTHON=python3.12"'
	$(PYTHON) -m venv $(VENV)
	awk '/^[a-z]/ { own = /^uv==/ } own' requirements.lock > $(VENV)/uv.txt
	$(PIP) --require-hashes -r $(VENV)/uv.txt
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock || $(PIP) --require-hashes -r requirements.lock
	$(PIP) --no-build-isolation --no-deps --no-index -e .
	touch $@

demo: install
	$(BIN)/nextbar demo

# Each process has neighbouring tests, which share what they trained; one that has none left takes some of another's.
test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal

# The long ones too; a quicker test covers most of each of them.
test-all: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal -m "not slow"

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# QUICK=1: under three minutes on two quiet cores. Each comparison runs both sides in turn; see benchmarks/README.md.
bench: install
	$(BIN)/python benchmarks/all.py $(if $(QUICK),--quick)

# What the LSTM is raced against, in a venv of its own: none of it is in the lock.
bench-peers:
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/pip install --quiet --disable-pip-version-check tensorflow-cpu torch==2.13.0

# Every extra but MLflow, which would bring a web server.
LOCKED := $(addprefix --extra ,demo postgres dask fast yahoo models test check build)

# Resolves the lock for 3.11, universal.
lock:
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes $(LOCKED) \
	    --no-emit-index-url --no-emit-find-links --no-header --output-file requirements.lock

clean:
	rm -rf $(VENV) .venv-newest demo build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
