# `make` alone lists the commands. The first command that needs the environment creates it in .venv.

PYTHON ?= python3
SAMPLE := examples/mini_pods
OBJECTS ?= $(SAMPLE)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
TYPED := persrep_ray jobs tools benchmarks

ifeq ($(OBJECTS),$(SAMPLE))
ONLY ?= mug_0 mug_1 mug_2
RUN := demo
else
ONLY ?=
RUN = $$(basename "$$(cd "$$OBJECTS" && pwd)")
endif

# Recipes read these from the environment, so that a path may hold spaces and quotes.
export OBJECTS PYTHON

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint clean

help:
	@echo 'make demo                           personalize three mugs of the sample data; results in runs/demo'
	@echo 'make demo ONLY="tin_0 tin_1"        personalize other objects of it; ONLY= takes all of them'
	@echo 'make demo OBJECTS=/path/to/objects  personalize your objects (a folder of photos each); results in runs/<folder>'
	@echo 'make test                           run the linter, the formatter, the type checker and all tests'
	@echo 'make clean                          remove .venv and caches, but keep runs/'
	@echo 'PYTHON=python3.12 make ...          create .venv with this Python (3.10, 3.11 or 3.12)'

demo: $(STAMP)
	@test -d "$$OBJECTS" || { echo "make demo: there is no folder $$OBJECTS (given as OBJECTS)" >&2; exit 2; }
	@run="runs/$(RUN)" && set -x && \
	$(BIN)/persrep personalize --objects "$$OBJECTS" --registry "$$run/registry" --out "$$run" $(if $(ONLY),--only $(ONLY))

# Two processes: the Ray tests in one, all others in the other (tests/conftest.py).
test: lint
	$(BIN)/pytest -n 2 --no-loadscope-reorder

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(TYPED)

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@"$$PYTHON" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
		echo "persrep-ray needs Python 3.10, 3.11 or 3.12; '$$PYTHON' is $$("$$PYTHON" --version 2>&1)." >&2; \
		echo "Name another Python: PYTHON=python3.12 make ..." >&2; exit 2; }
	@echo "Installing into $(VENV); this happens once and takes some minutes"
	"$$PYTHON" -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt --editable '.[dev,dreambooth]'
	@touch $@
