# Two commands matter: `make demo` and `make test`. Everything lives in .venv; nothing outside this folder changes.
.POSIX:

PYTHON = python3
VENV = .venv
# One more than two cores: several tests wait for other processes meanwhile.
WORKERS = 3
# Their dates say when the environment was last brought in line with pyproject.toml and constraints.txt.
DEMO_STAMP = $(VENV)/.fewbits-demo-installed
STAMP = $(VENV)/.fewbits-installed
PIP = $(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable

.PHONY: help setup demo flower-demo flower-storm test check lint docs bench clean distclean

help:
	@echo 'make demo       install what it needs in $(VENV), then train a small model and show every byte that was sent'
	@echo 'make setup      create $(VENV) and install fewbits with all extras and tools, every version pinned'
	@echo 'make flower-demo  a SuperLink and two SuperNodes over TLS on this machine, and what each layer costs'
	@echo 'make flower-storm  fault injection: 20 rounds with lost, late and corrupted replies and crashes'
	@echo 'make test       set up, then run the whole test suite'
	@echo 'make check      lint, formatting, types and the documentation'
	@echo 'make lint       of these, lint, formatting and types alone'
	@echo 'make docs       build the documentation site in build/docs; open build/docs/index.html'
	@echo 'make bench      run the benchmarks; with DATA_DIR=folder of CIFAR-10 the simulation, too'
	@echo 'make clean      remove caches and build products; make distclean removes $(VENV) too'

setup: $(STAMP)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'fewbits needs Python 3.11 or newer as $(PYTHON); name another with: make PYTHON=/path/to/python3.11' >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

# The demo needs no developers' tools.
$(DEMO_STAMP): pyproject.toml constraints.txt
	@test -x $(VENV)/bin/python || $(MAKE) $(VENV)/bin/python
	$(PIP) '.[data,report]'
	@touch $(DEMO_STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(VENV)/bin/python || $(MAKE) $(VENV)/bin/python
	$(PIP) '.[data,report,peft,dp,gossip,flower,fuzz,docs,dev]'
	@touch $(DEMO_STAMP) $(STAMP)

demo: $(DEMO_STAMP)
	$(VENV)/bin/fewbits demo

flower-demo: $(STAMP)
	$(VENV)/bin/python examples/flower/loopback.py

flower-storm: $(STAMP)
	$(VENV)/bin/python examples/flower/storm.py

# Kernels are compiled first, or each worker would do it. Each worker takes a stretch of the tests, then the rest of others' stretches. They and the hundred processes that they
# start share compiled Python, even where the user's shell forbids to write it. Memory in large pages, where glibc gives
# it, makes their thousand forks cheap.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(VENV)/bin/python tests/warm.py
	PYTHONDONTWRITEBYTECODE= GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
	  $(VENV)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

check: lint docs

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/basedpyright

docs: $(STAMP)
	$(VENV)/bin/python -m sphinx -b html -W --keep-going -q -d build/doctrees docs build/docs

bench: $(STAMP)
	data_dir='$(DATA_DIR)'; \
	  $(VENV)/bin/python benchmarks/run.py $${data_dir:+--data-dir "$$data_dir"}

clean:
	find . -name $(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
	rm -rf .pytest_cache .ruff_cache build dist

distclean: clean
	rm -rf $(VENV)
