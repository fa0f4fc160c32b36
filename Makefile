# Everything works from a fresh clone: each target sets up .venv first, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help install demo test coverage test-fast slow-list soak lint docs format weights gpu rehearse clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(INSTALLED)  ## set up .venv with the pinned set

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "dct-augment needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable . --group dev
	$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null || true  # templates in some packages do not compile
	@touch $@

demo: install  ## five photos of each Pocket bird and digit -> init -> run -> predict
	$(BIN)/dct-augment demo

test: install  ## the test suite, in two processes of one thread each
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

coverage: install  ## the test suite with its branch coverage, which takes half as long again
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov --cov-report term

test-fast: install  ## the tests that take seconds, for work in progress
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow"

slow-list: install  ## which tests make test-fast leaves out: measured anew
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --write-slow-list

MINUTES ?= 120
SEED ?= 1
soak: install  ## kill, stop, damage and fill the disk of runs for MINUTES; SEED decides where
	$(BIN)/python -m tests.soak --minutes $(MINUTES) --seed $(SEED)

lint: install  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: install  ## the documentation, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

format: install  ## let ruff rewrite the sources
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

weights: install  ## rebuild the Pocket models from seeds (about 2.5 hours on 2 cores)
	$(BIN)/python -m pocket_build

gpu: install  ## measure what a GPU does at full size, ten minutes at most, into gpu.json
	$(BIN)/python -m benchmarks.gpu

rehearse: install  ## the real commands on fake data of the size of CUB and ImageNet, within limits (half an hour)
	$(BIN)/python -m benchmarks.rehearse

clean:  ## remove the environment; runs/ stays
	rm -rf $(VENV)
