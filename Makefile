# `make demo` and `make test` do all set-up on a machine that has Python ≥ 3.11 and make.
# TORCH holds pip's arguments for PyTorch; for the small CPU build on Linux:
#   make demo TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
JOBS ?= 2
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
export HF_HUB_OFFLINE ?= 1
export MPLBACKEND ?= Agg

.PHONY: demo test test-all lint types docs clean

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) $(TORCH)
	$(PIP) -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) -c constraints.txt -e '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(VENV)/bin/python -m adjointdpm.demo

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.dev
	$(VENV)/bin/mypy

# One thread for each worker: the networks are small, and two workers use two cores better than one with two threads.
test: lint types
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(JOBS) --dist worksteal

test-all: lint types
	OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(JOBS) --dist worksteal -m ''

clean:
	rm -rf $(VENV) build dist demo .pytest_cache .mypy_cache .ruff_cache
