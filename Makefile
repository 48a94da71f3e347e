# Each target creates .venv, installs into it, and runs. `make help` lists them.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out
SITE ?= site
PHOTOGRAPH ?= examples/street.jpg
SECONDS ?= 600
TARGETS ?=

.PHONY: help demo test test-slow test-parity fuzz lint docs reference audit benchmark-env clean

help:
	@echo "make demo       segment a photograph into $(OUT)"
	@echo "make test       run the tests"
	@echo "make test-slow  run the tests that take minutes"
	@echo "make test-parity  compare networks with those of other libraries, in an environment of its own"
	@echo "make fuzz       search for files that break the readers, for SECONDS each (600), on Linux"
	@echo "make lint       check formatting, style, types and the direction of imports"
	@echo "make docs       build the documentation into site/"
	@echo "make reference  write docs/reference from the code, after a change of options or keys"
	@echo "make audit      look up known vulnerabilities of the pinned dependencies; needs a connection"
	@echo "make benchmark-env  install atrous beside the libraries that benchmarks/engines.py compares it with"
	@echo "make clean      remove all of the above"

demo: $(VENV)/.installed
	$(BIN)/atrous predict $(PHOTOGRAPH) -o $(OUT)
	@echo "The picture: $(abspath $(OUT))/$(basename $(notdir $(PHOTOGRAPH)))_overlay.png"

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto -m "not slow"

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow

test-parity: .venv-parity/.installed
	.venv-parity/bin/python -m pytest tests/parity

fuzz: $(VENV)/.installed-dev
	$(BIN)/python -m tests.hostile.fuzz $(TARGETS) --seconds $(SECONDS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir $(SITE)
	@echo "The documentation: $(abspath $(SITE))/index.html"

reference: $(VENV)/.installed-dev
	$(BIN)/python docs/generate_reference.py

# Mirrors of PyPI do not know vulnerabilities: the index of the environment is not used, and what is not found is an error.
audit: $(VENV)/.installed-dev
	$(BIN)/pip-audit --strict --requirement constraints.txt --no-deps --disable-pip

# torchvision's wheels for the CPU are not on every index: it is installed without its dependencies.
benchmark-env:
	$(PYTHON) -m venv .venv-benchmark
	.venv-benchmark/bin/python -m pip install --quiet -c constraints.txt -e ".[openvino]" ai-edge-litert huggingface_hub tqdm
	.venv-benchmark/bin/python -m pip install --quiet --no-deps torchvision timm segmentation-models-pytorch

.venv-parity/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet -c constraints.txt -e ".[executorch]" pytest hypothesis huggingface_hub tqdm transformers
	.venv-parity/bin/python -m pip install --quiet --no-deps torchvision timm segmentation-models-pytorch
	@touch $@

clean:
	rm -rf $(VENV) .venv-benchmark .venv-parity $(OUT) $(SITE) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@ $(VENV)/.installed
