# Every command of the README is one of these or plain dvc.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: setup demo repro sweep test lint bench lock audit

setup: .venv/ready  ## install everything into .venv

.venv/ready: requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	.venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	python -m tools.plots_page
	touch $@

demo: setup  ## the six stages on made-up data, in a scratch clone: about two minutes
	python -m tools.demo

repro: setup  ## the six stages as params.yaml says
	dvc repro

RECIPE ?= recipes/tuned.yaml
SEEDS ?= 5
JOBS ?= 1
# More than cores: some tests wait for DVC's queue or for a server.
TESTERS ?= $(shell expr 3 \* $$(getconf _NPROCESSORS_ONLN) / 2)

sweep: setup  ## a recipe with several seeds, through DVC's queue, with the test accuracies
	python -m tools.sweep $(RECIPE) --seeds $(SEEDS) --jobs $(JOBS) --test

lint: setup
	ruff check .
	ruff format --check .
	mypy
	lint-imports

test: lint
	pytest --numprocesses $(TESTERS) --dist worksteal

bench: setup  ## ours beside the usual ways, on this machine: ten minutes; writes docs/performance.md
	python -m benchmarks

lock:  ## pin every dependency anew, for Linux and macOS, Python 3.11 and 3.12
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --upgrade --quiet --output-file requirements.lock

audit: setup  ## known vulnerabilities of the pinned dependencies
	pip-audit --requirement requirements.lock --require-hashes --disable-pip
