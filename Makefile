# Targets for people and for CI; `make help` lists them. Nothing needs to be installed but Python >= 3.11.
# The virtual environment is filled once and again when pyproject.toml or constraints.txt change.

VENV ?= .venv
WORKERS ?= 2
# A wheel of CuPy to install for the tests, such as one for emulated devices. Without one the plain package is
# installed: where there is no GPU, it still shows that its import, its detection and its error text are right.
CUPY_WHEEL ?=
# One script of benchmarks/, without its ending; all of them by default.
BENCH ?=

ifeq ($(origin PYTHON),undefined)
PYTHON := $(shell for p in python3.11 python3 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
endif

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
CHECKERS = ruff mypy numpydoc
ORACLES = autograd autoray optax
# Each worker computes on one thread, so that workers do not fight for the cores.
ONE_THREAD = OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
CUPY_STAMP = $(VENV)/.$(if $(CUPY_WHEEL),$(notdir $(CUPY_WHEEL)),cupy-plain)

.DEFAULT_GOAL := help
.PHONY: help train test check docs bench test-gpu clean which-python

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 16

train: $(VENV)/.train ## train the digits example on NumPy alone
	$(BIN)/xdev train digits --device numpy

test: check $(CUPY_STAMP) ## check, then run all tests on every backend that is installed, and the doctests
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --xdev=all -m "not gpu"
	env -u XDEV_DEVICE -u XDEV_BACKENDS $(ONE_THREAD) $(BIN)/python -m pytest --doctest-modules xdev

check: $(VENV)/.test ## lint, formatting, types, docstrings
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy xdev backends
	$(BIN)/python tests/check_docstrings.py

docs: $(VENV)/.docs ## build the documentation into docs/_build; warnings are errors
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build

bench: $(VENV)/.bench ## run the benchmarks, or one: make bench BENCH=name
	@for script in $(if $(BENCH),benchmarks/$(BENCH).py,$(wildcard benchmarks/[a-z]*.py)); do \
		echo "== $$script"; \
		env -u OPENBLAS_CORETYPE -u OPENBLAS_L2_SIZE $(BIN)/python $$script || exit 1; \
	done

test-gpu: $(VENV)/.test $(CUPY_STAMP) ## run the tests that need an accelerator
	JAX_PLATFORMS= $(BIN)/python -m pytest --xdev=all -m gpu

clean: ## remove the virtual environment and everything that is built
	rm -rf $(VENV) docs/_build docs/api/generated dist build runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

which-python:
	@echo $(PYTHON)

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python >= 3.11 found; name one: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.train $(VENV)/.test $(VENV)/.docs $(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
$(VENV)/.train:
	$(PIP) --editable '.[examples,plot]'
	@touch $@
$(VENV)/.test:
	$(PIP) --editable '.[all,test]' $(CHECKERS) $(ORACLES)
	@touch $@
$(VENV)/.docs:
	$(PIP) --editable '.[all,docs]'
	@touch $@
$(VENV)/.bench:
	$(PIP) --editable '.[bench]'
	@touch $@

# One CuPy at a time: a stamp of the other kind is out of date. The plain package exists for few platforms.
$(CUPY_STAMP): $(CUPY_WHEEL) $(VENV)/.test
	@rm -f $(VENV)/.cupy*
	$(PIP) $(if $(CUPY_WHEEL),$(CUPY_WHEEL),--editable '.[cupy12]' || echo "no CuPy for this platform: going on without")
	@touch $@
