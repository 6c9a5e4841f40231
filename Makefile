# Everything runs in .venv, made on the first call. `make demo` and `make test` are all a newcomer needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test check unit e2e bench clean

help: ## what there is
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(VENV)/.run ## install, then the whole life of an adapter on a small example
	$(BIN)/graft demo

test: $(VENV)/.dev check unit e2e ## install, then every check and every test

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
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
