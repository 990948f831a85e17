# Everything sets up its own environment; nothing is needed but Python 3.11 or newer.
PYTHON ?= python3
# Tests compute on one thread each; a file's tests stay together, for they share what they set up.
WORKERS ?= 2
BIN := .venv/bin
READY := .venv/.ready
# TRL lives in an environment of its own, unless another Python that has it is named.
BENCH_READY := $(if $(REDPENCIL_BENCH_PYTHON),,.bench-venv/.ready)

.PHONY: demo test test-slow lint check bench docs screenshots clean

demo: $(READY)  ## the whole path on the embedded review world, ends with a report
	$(BIN)/redpencil demo --out runs/demo

test: $(READY)  ## all tests but the slow real-data trials
	$(BIN)/python -m pytest -m "not slow" -n $(WORKERS) --dist loadfile

test-slow: $(READY)  ## real-data trials and whole demo runs
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## ruff and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## what CI runs

bench: $(READY) $(BENCH_READY)  ## redpencil against TRL on this machine; CASES="--cases hh,k4"
	$(BIN)/python -m benchmarks.compare $(CASES)

docs: $(READY)  ## the option reference, written from the recipes
	$(BIN)/python -m redpencil.recipes.reference_page docs/options.md

screenshots: $(READY)  ## the pictures of the report in docs/screens, from a demo run (6 minutes)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[screens]'
	$(BIN)/python docs/screenshots.py

clean:
	rm -rf .venv .bench-venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch goes first, under the pin: another order may fetch gigabytes of CUDA libraries.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "redpencil needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

.bench-venv/.ready: benchmarks/trl-requirements.txt
	test -x .bench-venv/bin/python || $(PYTHON) -m venv .bench-venv
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep ^torch== $<)"
	.bench-venv/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	touch $@
