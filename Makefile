# Everything here needs only Python 3.11 or later, make, and a package index that pip can reach.
# Another Python: `make PYTHON=python3.12 demo`. Arguments for pytest: `make test PYTEST_ARGS="-k tar"`.

PYTHON ?= python3
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo

.DEFAULT_GOAL := help
.PHONY: help demo test lint format hooks install clean check-python

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) ## Encode sample captions with small random-weight encoders and validate the dataset
	@echo "==> 1/4 sample caption tars, in img2dataset's layout"
	@$(BIN)/python -m pipeline demo-data $(DEMO)/tars
	@echo "==> 2/4 encode them with Ray on this machine (random-weight encoders of the three real architectures)"
	@$(BIN)/python -m pipeline encode demo --input $(DEMO)/tars --output $(DEMO)/dataset
	@echo "==> 3/4 validate every stored value"
	@$(BIN)/python -m schemas validate $(DEMO)/dataset --level values
	@echo "==> 4/4 what the dataset holds"
	@$(BIN)/python -m schemas inspect $(DEMO)/dataset
	@echo
	@echo "The dataset is in $(DEMO)/dataset, the tars it was made from in $(DEMO)/tars."
	@echo "Its encoders have random weights: the layout, the sizes and every check are real, the embeddings mean nothing."
	@echo
	@echo "Next:"
	@echo "  make demo                                                  again: it resumes, and finds nothing to do"
	@echo "  $(BIN)/python -m schemas inspect --help                  look at one shard or one row"
	@echo "  $(BIN)/python -m pipeline encode sd3 --input TARS --output DATASET --dry-run"
	@echo "                                                             plan the real encoders on your own tars (folder,"
	@echo "                                                             s3://, gs:// or az://); without --dry-run it encodes"
	@echo "  $(BIN)/python -m pipeline prepare-weights --help         first fetch only the text towers' weights, once"

test: lint ## Run the whole suite: style, types, package boundaries, tests
	@$(BIN)/python -m pytest --hypothesis-profile=ci $(PYTEST_ARGS)

lint: $(INSTALLED) ## Check style, types and package boundaries
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(INSTALLED) ## Rewrite the sources in the house style
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

hooks: $(INSTALLED) ## Run the style, type and boundary checks before every commit
	@$(BIN)/python -m pip install --quiet -e '.[hooks]' -c constraints.txt
	@$(BIN)/pre-commit install

install: $(INSTALLED) ## Make the environment in .venv

clean: ## Remove the environment, the demo and all caches
	rm -rf $(VENV) $(DEMO) build dist encode_once.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find schemas pipeline trainer tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that an interrupted install is done again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(MAKE) --no-print-directory check-python
	@echo "==> making the environment in $(VENV) (a few minutes and about 7 GB; once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[pipeline,trainer,test]' -c constraints.txt
	@touch $(INSTALLED)

check-python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no '$(PYTHON)' here. Install Python 3.11 or later, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "encode-once needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module; on Debian and Ubuntu it is the package python3-venv." >&2; exit 1; }
