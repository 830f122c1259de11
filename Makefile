# Everything runs in a virtual environment of its own, which the first call of a target sets up.
#
#   make demo            train, attack and show a natural and two robust models   (SHORT=1: a quick form)
#   make test            what has to pass before a change lands
#
# Settings: PYTHON=python3.12 (3.11 or newer), VENV=.venv, WORKERS=2 (test processes).

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
SHORT ?=

BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread per test process: more of them only wait for each other.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
short := $(filter-out 0 no false,$(SHORT))

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow docs lint types bench browser clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo-installed ## train, attack and show three models on bundled digits; SHORT=1 for a quick look
	$(BIN)/veridical demo $(if $(short),--short) --out runs/demo$(if $(short),-short)

# Types are checked while the tests run: alone they would leave a core idle for a minute.
test: lint browser ## lint, types and all quick tests
	@$(BIN)/mypy & types=$$!; \
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS); tests=$$?; \
	wait $$types && exit $$tests

test-slow: $(VENV)/.dev-installed browser ## the tests that take minutes
	$(TEST_ENV) $(BIN)/python -m pytest -n $(WORKERS) -m slow

docs: $(VENV)/.dev-installed browser ## the site, into docs/_build/html; its links, and what its pages load, are checked
	$(TEST_ENV) $(BIN)/python -m sphinx -b html -n -W --keep-going -q docs docs/_build/html
	$(BIN)/python -m pytest -q tests/test_site.py
	@echo "make: open docs/_build/html/index.html"

lint: $(VENV)/.dev-installed ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.dev-installed ## mypy --strict
	$(BIN)/mypy

bench: $(VENV)/.dev-installed ## the timings that the documentation quotes
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

# The browser is Debian's, since the report is looked at in a real one; without it one test skips and says so.
browser:
	@tools/ensure-browser

clean: ## remove the environment, caches and what builds leave; runs stay
	rm -rf $(VENV) build dist docs/_build docs/gallery examples/runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +

# The stamps make a second call quick, and a change of the dependencies install them again.
$(VENV)/.created:
	tools/make-venv $(PYTHON) $(VENV)
	touch $@

$(VENV)/.dev-installed: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	touch $@

# The demo needs less; an environment with everything serves it as well.
$(VENV)/.demo-installed: $(VENV)/.created pyproject.toml constraints.txt
	[ $(VENV)/.dev-installed -nt pyproject.toml ] && [ $(VENV)/.dev-installed -nt constraints.txt ] \
		|| $(BIN)/python -m pip install -c constraints.txt -e '.[demo]'
	touch $@
