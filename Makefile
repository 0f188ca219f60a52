# make serve    install what the server needs into .venv (once) and serve on HOST:PORT
# make test     lint, types and tests: what CI runs
# make lint     lint and types only
# make train    build the default corpus and train all stages; again, to go on where it was stopped
# make bench    pictures a second on this machine, against what its memory and arithmetic allow
# make load     200 clients for a minute, some of whom leave; checks that no request is lost
# make container  build the container image without a Docker engine and try it; needs root on Debian
# make clean    remove .venv and caches; never data/, runs/ or weights/
#
# HOST, PORT    where to serve: make serve HOST=0.0.0.0. Left out, DALLE_HOST and DALLE_PORT of the environment count,
#               then HOST and PORT there, then 127.0.0.1:8000.
# TORCH         which PyTorch: "cpu", "cuda", or a pip requirement of your own ("torch==2.12.1", with pip options
#               after it if need be). Default: cuda if `nvidia-smi` finds a GPU, else cpu. Change it with `make clean`.
# PRESET        what `make train` trains: tiny, small or default. Default small, which a CPU can.
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
# --flag VALUE, if the variable is given to make itself. What the environment says the server reads, and reads better.
flag = $(if $(filter command,$(firstword $(origin $(2)))),--$(1) "$($(2))")
.DEFAULT_GOAL := serve
.PHONY: serve test lint train bench load container clean

serve: $(VENV)/.installed
	@exec $(VENV)/bin/dalle-server serve $(call flag,host,HOST) $(call flag,port,PORT)

# Two tests at a time, each file's one after another, each with one thread for its arithmetic.
test: lint
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses $(TEST_WORKERS) --dist loadfile

lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/hadolint Dockerfile
	$(VENV)/bin/mypy

train: $(VENV)/.installed-recipe
	$(VENV)/bin/python -m model.recipes.default build
	$(VENV)/bin/python -m model.recipes.default train --preset $(PRESET)

bench: $(VENV)/.installed
	@$(VENV)/bin/dalle-server bench

load: $(VENV)/.installed-dev
	@$(VENV)/bin/python -m tests.app.load

container:
	@$(PYTHON) .ci/container.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find app model tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit(f"{sys.executable} is Python {v[0]}.{v[1]}; \
	3.11 or newer is needed. Name one: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

# A CPU build of PyTorch is a tenth of the CUDA build's size. Where pip knows one ("+cpu") it is taken. Elsewhere the
# plain version is: on Linux x86-64 that may bring CUDA libraries along, which do no harm on a CPU.
$(VENV)/.torch: | $(VENV)/bin/python
	@echo "Installing PyTorch ($(TORCH)) into $(VENV); once, may take minutes"
	@case "$(TORCH)" in \
	  cpu) $(PIP) "torch==$(TORCH_VERSION)+cpu" 2>/dev/null || $(PIP) "torch==$(TORCH_VERSION)" ;; \
	  cuda) $(PIP) "torch==$(TORCH_VERSION),!=$(TORCH_VERSION)+cpu" ;; \
	  *) $(PIP) $(TORCH) ;; \
	esac
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "Installing dalle-server into $(VENV)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-recipe: $(VENV)/.installed
	@echo "Installing what the recipe of the default weights needs"
	@$(PIP) --editable ".[recipe]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the tools for development"
	@$(PIP) --editable ".[dev]"
	@touch $@
