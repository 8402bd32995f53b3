# Everything a contributor runs. `make` alone lists the targets.
# PYTHON= chooses the interpreter of a new environment, VENV= another place for it, ARGS= is handed to the tool behind a target.

VENV ?= .venv
RUN := $(VENV)/bin
PIP := $(RUN)/python -m pip --disable-pip-version-check
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python3.10 python
VENV_PACKAGES := python3 python3-venv

PAGES := semconv config
SOURCES := $(shell find crucible_otel tests -name '*.py' 2>/dev/null)

MAKEFLAGS += --no-print-directory

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format backends e2e torch bench api docs floor matrix clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## make .venv and install the package, the demo's extra and the tools; quick when nothing changed

# $(call venv,DIR): an environment in DIR, by the first interpreter that is new enough.
define venv
@python="$(PYTHON)"; \
if [ -z "$$python" ]; then \
	for each in $(CANDIDATES); do \
		if "$$each" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then python=$$each; break; fi; \
	done; \
fi; \
if [ -z "$$python" ]; then \
	echo "no Python >= 3.10 found; install one (Debian: apt-get install $(VENV_PACKAGES)) or say PYTHON=/path/to/python" >&2; exit 1; \
fi; \
if ! "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then \
	echo "$$python is not Python >= 3.10" >&2; exit 1; \
fi; \
if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then \
	echo "$$python has no venv; Debian: apt-get install $(VENV_PACKAGES)" >&2; exit 1; \
fi; \
"$$python" -m venv $(1)
endef

$(VENV)/.ready: pyproject.toml
	$(call venv,$(VENV))
	@$(PIP) install --quiet --upgrade 'pip>=25.1'
	@$(PIP) install --quiet --editable '.[demo]' --group dev
	@touch $@

demo: setup  ## train a small real model and show what arrived
	@$(RUN)/crucible-otel demo $(ARGS)

test: setup  ## run the tests on all cores, under coverage; ARGS= runs a part, without
ifdef ARGS
	$(RUN)/python -m pytest $(ARGS)
else
	@$(RUN)/coverage erase
	$(RUN)/coverage run -m pytest -n auto --dist worksteal
	@$(RUN)/coverage combine --quiet
endif

# The figure that `check` looks at: measured again only when a source is newer.
.coverage: $(SOURCES) pyproject.toml
	$(MAKE) test ARGS=

check: setup .coverage  ## lint, format, types, layers, coverage, public names and generated pages
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	$(RUN)/lint-imports
	$(RUN)/python scripts/public_api.py | diff -u public_api.txt - || { echo "public_api.txt is not what the code says; run: make api" >&2; exit 1; }
	@for page in $(PAGES); do \
		$(RUN)/crucible-otel $$page | diff -u docs/reference/$$page.md - || { echo "docs/reference/$$page.md is not what the code says; run: make docs" >&2; exit 1; }; \
	done
	$(RUN)/coverage report

format: setup  ## let ruff format and mend what it can
	@$(RUN)/ruff check --fix .
	@$(RUN)/ruff format .

backends: setup  ## build the servers for e2e with Go, once for all checkouts; quick when they are there
	@$(RUN)/python scripts/backends.py

e2e: setup backends  ## run the tests against a real Collector, Jaeger and Prometheus, and those with PyTorch (TORCH=0 leaves these out)
	$(RUN)/python -m pytest -m e2e $(ARGS)
ifneq ($(TORCH),0)
	@if grep -rqs --include='*.py' 'mark\.torch' tests; then $(MAKE) torch; fi
endif

# PyTorch is several gigabytes and changes what the demo trains with, so it never enters the everyday environment.
torch: .venv-torch/.ready  ## run the tests marked torch, in an environment that has it
	.venv-torch/bin/python -m pytest -m torch $(ARGS)

.venv-torch/.ready: pyproject.toml
	$(call venv,.venv-torch)
	@.venv-torch/bin/python -m pip --disable-pip-version-check install --quiet --upgrade 'pip>=25.1'
	@.venv-torch/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[demo]' --group test torch
	@touch $@

bench: setup  ## print the figures of the README, as ratios in one process
	@$(RUN)/python -m benchmarks $(ARGS)

api: setup  ## rewrite public_api.txt from the code
	@$(RUN)/python scripts/public_api.py > public_api.txt

docs: setup  ## rewrite the generated reference pages
	@mkdir -p docs/reference
	@for page in $(PAGES); do $(RUN)/crucible-otel $$page > docs/reference/$$page.md || exit 1; done

# What a release of OpenTelemetry can break; the rest of the suite does not touch it, or no more of it than these.
BOUND := tests/config/test_otel_env.py tests/semconv/test_tables.py tests/export tests/integration \
	tests/otel/test_live.py tests/otel/test_record_spans.py tests/testing tests/test_setup.py $(wildcard tests/verbs/test_hot_*.py) $(addprefix tests/verbs/test_, \
	$(addsuffix .py, call contexts inference run short_way spans step_spans workflow))

# What a release of pynvml can break: the library without a GPU under the oldest one, and what is read through it.
NVML := tests/gpu/test_stub.py tests/gpu/test_end_to_end.py -k 'stub or worked or hopper or mig or failing or older'

floor: .venv-floor/.ready  ## run the tests that OpenTelemetry and pynvml can break with the oldest dependencies and the oldest Python here
	.venv-floor/bin/python -m pytest -n auto --dist worksteal --hypothesis-profile=few $(or $(ARGS),$(BOUND))
ifndef ARGS
	.venv-floor/bin/python -m pytest -n auto -m e2e $(NVML)
endif

matrix: .venv-floor/.ready .venv-newest/.ready  ## run all tests at both ends: oldest dependencies and Python, newest of both
	.venv-floor/bin/python -m pytest -n 2 $(ARGS)
	.venv-newest/bin/python -m pytest -n 2 $(ARGS)

.venv-floor/.ready: private PYTHON = $(shell $(RUN)/python scripts/pythons.py oldest)
.venv-floor/.ready: pyproject.toml scripts/floors.py $(VENV)/.ready
	$(call venv,.venv-floor)
	@$(RUN)/python scripts/floors.py > .venv-floor/constraints.txt
	@.venv-floor/bin/python -m pip --disable-pip-version-check install --quiet --upgrade 'pip>=25.1'
	@.venv-floor/bin/python -m pip --disable-pip-version-check install --quiet --editable '.[demo]' --group test --constraint .venv-floor/constraints.txt
	@touch $@

.venv-newest/.ready: private PYTHON = $(shell $(RUN)/python scripts/pythons.py newest)
.venv-newest/.ready: pyproject.toml $(VENV)/.ready
	$(call venv,.venv-newest)
	@.venv-newest/bin/python -m pip --disable-pip-version-check install --quiet --upgrade 'pip>=25.1'
	@.venv-newest/bin/python -m pip --disable-pip-version-check install --quiet --upgrade --upgrade-strategy eager --editable '.[demo]' --group test
	@touch $@

clean:  ## remove environments, caches and build outputs
	@rm -rf .venv-torch .venv-floor .venv-newest $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
