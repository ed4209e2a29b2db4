# Two commands do everything: `make demo` shows the tool at work, `make test` checks it. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: help demo test lint fast long chaos chaos-batches chaos-packs chaos-workers bench docs dist clean

help:
	@echo "make demo   install, run a real job through the bundled simulator, show its results"
	@echo "make test   lint, types, house rules and the test suite"
	@echo "make fast   the test suite alone, stopping at the first failure"
	@echo "make long   the tests that start many processes one after the other"
	@echo "make chaos  the long fault suite; writes docs/promises.md"
	@echo "make chaos-batches  the same of the batch lane; hours"
	@echo "make chaos-packs    kills of requests of several rows: at every operation of the disk, and of real processes"
	@echo "make chaos-workers  kills of jobs by several workers, and of their coordinators; two hours"
	@echo "make bench  the benchmarks; writes docs/benchmarks.md"
	@echo "make dist   wheel and sdist, checked, installed and run in empty environments: lowest and newest versions"
	@echo "make docs   the documentation as a site, in build/docs"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "crun_batch needs Python 3.11 or newer: make PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP)
	@sh examples/demo.sh $(BIN)/crun-batch

test: lint
	$(BIN)/pytest -n 3 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fast: $(STAMP)
	$(BIN)/pytest -x

long: $(STAMP)
	$(BIN)/pytest -m long

chaos: $(STAMP)
	$(BIN)/python -m tests.chaos

chaos-batches: $(STAMP)
	$(BIN)/python -m tests.simulation.batch_seeds 10000
	$(BIN)/python -m tests.chaos.batches

chaos-packs: $(STAMP)
	$(BIN)/python -m tests.simulation.packs
	$(BIN)/python -m tests.chaos.packs 300

chaos-workers: $(STAMP)
	$(BIN)/python -m tests.chaos.workers kills 300
	$(BIN)/python -m tests.chaos.workers budgets 200

bench: $(STAMP)
	$(BIN)/python -m benchmarks

docs: $(STAMP)
	$(BIN)/sphinx-build --fail-on-warning --quiet -b html docs build/docs
	@echo "build/docs/index.html"

dist: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dist]'
	$(BIN)/pytest -m dist tests/test_distribution.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
