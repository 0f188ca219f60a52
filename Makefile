# make serve    install what the server needs into .venv (once) and serve on HOST:PORT
# make test     lint, types and tests: what CI runs
# make lint     lint and types only
# make train-deps  install what `dalle-server train`, `corpus index` and `evaluate` need besides
# make train    build the default corpus and train all stages; if it was stopped, run it again to go on
# make bench    measure steps, pictures and a server, beside what memory and arithmetic allow. With PEERS=1 also beside
#               DALLE-pytorch and min-dalle
# make load     run 200 clients for a minute, some of which leave early; check that no request is lost
# make container  build the container image without a Docker engine and try it; needs root on Debian
# make clean    remove .venv and caches; never data/, runs/ or weights/
#
# HOST, PORT    where to serve: make serve HOST=0.0.0.0. If they are left out, the environment's DALLE_HOST and
#               DALLE_PORT count, then its HOST and PORT, then 127.0.0.1:8000.
# TORCH         which PyTorch: "cpu", "cuda", or a pip requirement of your own ("torch==2.12.1"), which may have pip
#               options after it. Default: cuda if `nvidia-smi` finds a GPU, else cpu. To change it run `make clean` first.
# PRESET        size of the models that `make train` trains: tiny, small or default. Default small, for a CPU.
# TEST_WORKERS  how many tests `make test` runs at a time. Default 2.
# PYTHON        the Python, 3.11 or newer, that .venv is made with. Default python3.

PRESET ?= small
PYTHON ?= python3
TORCH ?= $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo cuda || echo cpu)
VENV ?= .venv
TEST_WORKERS ?= 2

PIP := $(VENV)/bin/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
TORCH_VERSION := 2.13.0
SHELL := /bin/bash
# --flag VALUE, if the variable is given to make itself. The server reads the environment's variables, and checks them.
flag = $(if $(filter command,$(firstword $(origin $(2)))),--$(1) "$($(2))")
.DEFAULT_GOAL := serve
.PHONY: serve test lint train-deps train bench load container clean

serve: $(VENV)/.installed
	@exec $(VENV)/bin/dalle-server serve $(call flag,host,HOST) $(call flag,port,PORT)

# Two tests run at a time. The tests of one file run one after another. Each has one thread for its arithmetic.
test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/mypy

train-deps: $(VENV)/.installed-train

train: $(VENV)/.installed-recipe
	$(VENV)/bin/python -m model.recipes.default build
	$(VENV)/bin/python -m model.recipes.default train --preset $(PRESET)

bench: $(VENV)/.installed-train
	@$(VENV)/bin/dalle-server bench $(if $(PEERS),--peers)

load: $(VENV)/.installed-dev
	@$(VENV)/bin/python -m tests.app.load

container:
	@$(PYTHON) .ci/container.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info build model/kernels/*.so
	find app model tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"{sys.executable} is Python {v[0]}.{v[1]}; \
	3.11 or newer is needed. Name one: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

# A CPU build of PyTorch has a tenth of the CUDA build's size. It is installed if pip knows one ("+cpu"), else the plain
# version is. On Linux x86-64 that may be a CUDA build, which also runs on a CPU.
$(VENV)/.torch: | $(VENV)/bin/python
	@echo "Installing PyTorch ($(TORCH)) into $(VENV); once, may take minutes"
	@case "$(TORCH)" in \
	  cpu) $(PIP) "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || $(PIP) "torch==$(TORCH_VERSION)" ;; \
	  cuda) $(PIP) "torch==$(TORCH_VERSION),!=$(TORCH_VERSION)+cpu" ;; \
	  *) $(PIP) $(TORCH) ;; \
	esac
	@touch $@

# The package's native kernels are built too, if there is a C++ compiler.
$(VENV)/.installed: pyproject.toml constraints.txt $(wildcard model/kernels/source/*) $(VENV)/.torch
	@echo "Installing dalle-server into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-train: $(VENV)/.installed
	@echo "Installing what training on your own data needs"
	@$(PIP) --editable ".[train]"
	@touch $@

$(VENV)/.installed-recipe: $(VENV)/.installed
	@echo "Installing what the recipe of the default weights needs"
	@$(PIP) --editable ".[recipe]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for development"
	@$(PIP) --editable ".[dev]"
	@touch $@
