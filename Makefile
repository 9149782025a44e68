# Everything sets itself up: `make demo` and `make test` work on a bare machine with Python 3.11.
PYTHON ?= python3.11
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
PEERS  := $(patsubst benchmarks/requirements-%.txt,.bench/venv-%/.installed,$(wildcard benchmarks/requirements-*.txt))

.PHONY: demo test lint docs bench faults vllm clean install

install: $(VENV)/.installed

# torch is asked for by exact version first, so that a plain CPU build on the machine is taken where there is one
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -qq -c constraints.txt pip setuptools wheel
	$(PIP) install -qq -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(PIP) install -qq -c constraints.txt -e '.[cpu,flows,cloud,dev]'
	touch $@

demo: install
	$(BIN)/penstock run recipes/quickstart.yaml

test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 8

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, into site/; python -m http.server -d site shows it. Every broken link is an error.
docs: install
	$(BIN)/python -m mkdocs build --strict

bench: install $(PEERS)
	$(BIN)/python -m benchmarks

# What the benchmarks compare with lives in one environment each, so that no pin of theirs meets one of ours.
.bench/venv-%/.installed: benchmarks/requirements-%.txt
	$(PYTHON) -m venv --clear .bench/venv-$*
	.bench/venv-$*/bin/python -m pip --disable-pip-version-check install -q -r $<
	touch $@

faults: install
	$(BIN)/python -m pytest tests/faults tests/refreshing/test_rounds.py -s --faults=20

# A model server in its own environment: it needs another fastapi than Prefect does.
vllm: .venv-vllm/.installed

.venv-vllm/.installed: requirements-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install -qq "$$(grep '^torch==' $<)"
	.venv-vllm/bin/python -m pip install -qq -r $<
	.venv-vllm/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec  # built for CUDA, they do not load
	touch $@

clean:
	rm -rf build dist site *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis runs .bench
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +
