# The same words for people and CI. `make demo` and `make test` need Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
WORKERS ?= 2

.PHONY: setup setup-test demo check test proof bench ledger docs data index clean

setup: $(VENV)/.installed
setup-test: $(VENV)/.installed-test

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	# An implementation that parity is measured against; it runs, but asks for a torch of two years ago.
	$(PIP) --no-deps facenet-pytorch==2.6.0
	touch $@

demo: setup
	$(BIN)/danlu run digits

check: setup-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread a worker: two spinning threads beside a busy neighbour are slower than one.
test: setup-test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS)

# The real data sets that tests about learning use when they are there (about 70 MB).
data: setup
	for name in mnist fashion-mnist cifar10; do $(BIN)/danlu data get $$name || exit; done

proof: setup-test data
	OMP_NUM_THREADS=1 $(BIN)/python -m proof --every 0/2 & OMP_NUM_THREADS=1 $(BIN)/python -m proof --every 1/2; wait
	$(BIN)/python -m proof
	OMP_NUM_THREADS=1 $(BIN)/python -m proof.kills
	OMP_NUM_THREADS=1 $(BIN)/python -m proof.exports
	OMP_NUM_THREADS=1 $(BIN)/python -m proof.parity
	OMP_NUM_THREADS=1 $(BIN)/python -m proof.pruning
	OMP_NUM_THREADS=1 $(BIN)/python -m proof.compression
	OMP_NUM_THREADS=1 $(BIN)/python -m proof.routes --work $(VENV)/proof/routes

bench: setup data
	$(BIN)/python -m benchmarks.main_job digits mnist fashion-mnist cifar10
	$(BIN)/python -m benchmarks.start
	$(BIN)/python -m benchmarks.augment
	$(BIN)/python -m benchmarks.train
	$(BIN)/python -m benchmarks.loadgen
	$(BIN)/python -m benchmarks.best
	$(BIN)/python -m benchmarks.start_serve
	$(BIN)/python -m benchmarks.serve
	$(BIN)/python -m benchmarks.tables

# The pages that are made: the ledger and its papers, of what was recorded; one page a verb.
ledger: setup
	$(BIN)/python -m danlu.papers.pages
	$(BIN)/python -m docs.verb_pages

docs: setup
	$(PIP) --editable '.[docs]'
	$(BIN)/zensical build --strict --config-file docs/zensical.en.toml
	$(BIN)/zensical build --strict --config-file docs/zensical.zh.toml

index: setup
	$(BIN)/python -m danlu.core.registry

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
