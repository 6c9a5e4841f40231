# Everything runs in .venv, made on the first call. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
LANES := $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard tests/lanes/*/test_*.py)))))
# Lanes whose programs are small; the others' take 10 GB and some minutes to install, so they are asked for by name.
SMALL := gguf recipes wandb
.PHONY: help demo test test-gpu check unit e2e lanes bench clean $(LANES:%=lane-%)

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.run ## install, then the whole life of an adapter on a small example
	$(BIN)/graft demo

test: $(VENV)/.dev check unit e2e $(SMALL:%=lane-%) ## install, then every check and test, but for the large lanes
	@echo "not run, for their size: $(filter-out $(SMALL),$(LANES))  (make lanes)"

check: $(VENV)/.dev ## formatting, lint, types, the arrows of the map, the style budgets
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check/budgets.py

unit: $(VENV)/.dev ## unit, contract and integration tests, on SQLite and PostgreSQL
	scripts/install_postgres.sh
	OMP_NUM_THREADS=1 $(BIN)/pytest tests/unit tests/contract tests/integration -q -n 2 --dist loadfile

e2e: $(VENV)/.dev ## a real server, real training and the stock openai SDK
	$(BIN)/pytest tests/e2e -q --timeout 900 --durations=10

lanes: $(LANES:%=lane-%) ## all tests against other people's programs; `make lane-NAME` runs those of tests/lanes/NAME
	@echo "lanes run: $(LANES)"

# A lane's packages do not belong in .venv: they have an environment of their own, built once and told to the
# tests by $GRAFTWORK_LANE_<NAME>, the path of its Python.
lane = $(subst -,_,$(shell echo $(1) | tr a-z A-Z))
$(LANES:%=lane-%): lane-%: .lanes/%/.ready $(VENV)/.dev
	GRAFTWORK_LANE_$(call lane,$*)=$(CURDIR)/.lanes/$*/bin/python \
	  $(BIN)/pytest tests/lanes/$* -q --timeout 600 --durations=5

# A lane that needs torch names its build in lane-NAME.torch.txt, which is installed first and alone; a line
# "# pip: OPTIONS" in its lock is for pip.
.lanes/%/.ready: requirements/lane-%.txt
	rm -rf .lanes/$*
	$(PYTHON) -m venv .lanes/$*
	if [ -f requirements/lane-$*.torch.txt ]; then \
	  .lanes/$*/bin/python -m pip install --quiet --disable-pip-version-check -r requirements/lane-$*.torch.txt; fi
	.lanes/$*/bin/python -m pip install --quiet --disable-pip-version-check \
	  $$(sed -n 's/^# pip: //p' requirements/lane-$*.txt) -r requirements/lane-$*.txt
	@touch $@

# Not part of `make test`. Where there is no GPU it fails: nothing was tested, and that is not green.
test-gpu: $(VENV)/.dev ## on a machine with an NVIDIA GPU: the trainer on CUDA, in bf16 and in 4 bits
	@$(BIN)/python -c 'import sys, torch; torch.cuda.is_available() or sys.exit("make test-gpu needs an NVIDIA GPU and a CUDA build of torch in .venv; there is none here, and nothing was tested.")'
	$(BIN)/pytest tests/gpu tests/unit/training -m gpu -q --durations=5

bench: $(VENV)/.dev ## measure against the peers and write bench/results
	$(BIN)/python -m bench

# torch first and alone: whatever else asked for it could pull a build with gigabytes of CUDA.
$(VENV)/.torch: requirements/torch.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Graftwork needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements/torch.txt
	@touch $@

$(VENV)/.run: $(VENV)/.torch requirements/run.txt pyproject.toml
	$(PIP) -r requirements/run.txt
	$(PIP) --no-deps -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements/dev.txt
	$(PIP) -r requirements/dev.txt
	@touch $@

clean: ## remove what was installed and built here
	rm -rf $(VENV) .lanes build dist .pytest_cache .ruff_cache
