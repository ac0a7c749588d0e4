# Everything here needs only Python 3.11 or later, make, and a package index that pip can reach.
# Another Python: `make PYTHON=python3.12 demo`. Arguments for pytest: `make test PYTEST_ARGS="-k tar"`.

PYTHON ?= python3
PYTEST_ARGS ?=
# Processes that run tests side by side, a file at a time.
PYTEST_WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := demo

.DEFAULT_GOAL := help
.PHONY: help demo test test-isa lint format hooks install clean check-python

help: ## Show this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' Makefile

demo: $(INSTALLED) ## Sample pictures and captions to a dataset, to a small trained model, to pictures from prompts
	@echo "==> 1/7 sample tars of pictures and captions, in img2dataset's layout"
	@$(BIN)/python -m pipeline demo-data $(DEMO)/tars
	@echo "==> 2/7 encode them with Ray on this machine (random-weight encoders of the three real architectures)"
	@$(BIN)/python -m pipeline encode demo --input $(DEMO)/tars --output $(DEMO)/dataset \
	  --columns txt json.long_caption --latents pixels
	@echo "==> 3/7 validate every stored value"
	@$(BIN)/python -m schemas validate $(DEMO)/dataset --level values
	@echo "==> 4/7 what the dataset holds"
	@$(BIN)/python -m schemas inspect $(DEMO)/dataset
	@echo "==> 5/7 encode the prompts, the last that is seen of a text encoder"
	@$(BIN)/python -m pipeline encode-prompts demo --prompts $(DEMO)/tars/prompts.txt --output $(DEMO)/prompts \
	  --like $(DEMO)/dataset
	@echo "==> 6/7 train a small MMDiT on both captions, for three minutes at most"
	@$(BIN)/python -m trainer train demo --data $(DEMO)/dataset --output $(DEMO)/run --prompts $(DEMO)/prompts \
	  --stream.captions txt json.long_caption --max-seconds 180
	@echo "==> 7/7 draw the prompts, with all encoders and with some of them"
	@$(BIN)/python -m trainer sample --checkpoint $(DEMO)/run --prompts $(DEMO)/prompts --output $(DEMO)/grid.png \
	  --encoders all clip_l,clip_g t5 none --sampling.guidance 3
	@echo
	@echo "Look at $(DEMO)/grid.png: prompts downwards, the encoders they were read with across. No picture of the tars has"
	@echo "a prompt's colour, shape and ground together. The dataset is in $(DEMO)/dataset, the tars in $(DEMO)/tars."
	@echo "The encoders have random weights: they tell words apart, and that is enough for these few; they know no meaning."
	@echo
	@echo "Next:"
	@echo "  make demo                                                  again: it resumes, and finds nothing to do"
	@echo "  $(BIN)/python -m schemas inspect --help                  look at one shard or one row"
	@echo "  $(BIN)/tensorboard --logdir $(DEMO)/run                      losses, and the pictures as they got better"
	@echo "  $(BIN)/python -m trainer export --checkpoint $(DEMO)/run --output MODEL"
	@echo "                                                             the model, as diffusers stores it"
	@echo "  $(BIN)/python -m pipeline encode sd3 --input TARS --output DATASET --dry-run"
	@echo "                                                             plan the real encoders on your own tars (folder,"
	@echo "                                                             s3://, gs:// or az://); without --dry-run it encodes"
	@echo "  $(BIN)/python -m pipeline prepare-weights --help         first fetch only the text towers' weights, once"

test: lint ## Run the whole suite: style, types, package boundaries, tests
	@$(BIN)/python -m pytest --numprocesses=$(PYTEST_WORKERS) --dist=loadfile --hypothesis-profile=ci $(PYTEST_ARGS)

test-isa: $(INSTALLED) ## Run the tests that depend on the processor as on one that has AVX2 alone
	@ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 \
	  $(BIN)/python -m pytest --numprocesses=$(PYTEST_WORKERS) --dist=loadfile --hypothesis-profile=ci -m processor $(PYTEST_ARGS)

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
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[pipeline,cluster,trainer,test]' -c constraints.txt
	@touch $(INSTALLED)

check-python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no '$(PYTHON)' here. Install Python 3.11 or later, or name one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "encode-once needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1)." >&2; \
	  echo "Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module; on Debian and Ubuntu it is the package python3-venv." >&2; exit 1; }
