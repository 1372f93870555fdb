# Every command of the README is one of these or plain dvc.
PYTHON ?= python3
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help setup demo repro sweep check test faults lint verify harmless bench lock audit
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Which build of PyTorch .venv has; TORCH=cpu or TORCH=default makes .venv again with the other one.
READY := $(if $(wildcard .venv/ready),$(or $(shell cat .venv/ready),default))
# A clone that was moved: .venv names the old place, and is made again too.
MOVED := $(if $(READY),$(shell grep -qsF '$(CURDIR)/.venv' .venv/bin/activate || echo moved))
TORCH ?= $(or $(READY),default)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
# uv takes a quarter of pip's time. What has to be built is built with the lock's setuptools.
INSTALL := .venv/bin/uv pip install --system-certs --python .venv/bin/python --no-build-isolation
# Of PyTorch on Linux: what the CPU index has itself, and what only the CUDA build needs.
CUDA := torch|torchvision|triton|cuda-.*|nvidia-.*

setup: .venv/ready  ## install everything into .venv; without a GPU: make setup TORCH=cpu
ifneq ($(TORCH)$(MOVED),$(READY))
.PHONY: .venv/ready
CLEAR := --clear
endif

.venv/ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) --version), this project needs Python 3.11 or 3.12: make setup PYTHON=python3.12"; exit 1; }
	@case "$(TORCH)" in default|cpu) ;; *) echo "error: TORCH is $(TORCH), and has to be cpu or default"; exit 1;; esac
	$(PYTHON) -m venv $(CLEAR) .venv
	awk '/^[a-z]/ {keep = $$1 ~ /^(uv|setuptools)==/} keep' requirements.lock > .venv/first.lock
	.venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r .venv/first.lock
ifeq ($(TORCH)-$(shell uname),cpu-Linux)
	awk '/^[a-z]/ {keep = $$1 !~ /^($(CUDA))==/} keep' requirements.lock > .venv/requirements.lock
	$(INSTALL) --no-deps --index-url $(TORCH_INDEX) $$(grep -oE '^(torch|torchvision)==[^ ]+' requirements.lock)
	$(INSTALL) --no-deps --require-hashes -r .venv/requirements.lock
else
	$(INSTALL) --require-hashes -r requirements.lock
endif
	$(INSTALL) --no-deps -e .
	python -m tools.plots_page
	echo $(TORCH) > $@

demo: setup  ## the six stages on made-up data, in a scratch clone: one to two minutes
	python -m tools.demo

repro: setup  ## the six stages as params.yaml says
	dvc repro

SEEDS ?= 1
JOBS ?= 1
# More than cores: some tests wait for DVC or for a server.
TESTERS ?= $(shell expr 3 \* $$(getconf _NPROCESSORS_ONLN) / 2)

sweep: setup  ## RECIPE=recipes/coffee.yaml SEEDS=3: a recipe with seeds 0 to 2; JOBS=2: two at a time; TEST=1: test images too
	python -m tools.sweep $(RECIPE) --seeds $(SEEDS) --jobs $(JOBS) $(if $(TEST),--test)

verify: setup  ## check the published result here; EPOCHS=1: train an epoch too; FULL=1: all images; SAMPLE_SEED=…
	python -m tools.verify $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(FULL),--full) $(if $(SAMPLE_SEED),--sample-seed $(SAMPLE_SEED))

harmless: setup  ## prove that an edit of train's code changes no bit, then put it into dvc.lock; EPOCHS=1
	python -m tools.harmless $(if $(EPOCHS),--epochs $(EPOCHS))

# The most lines of Python: what a reader has to read; the benchmarks; the tests.
SIZES := 6391:hubconf.py,src,stages,tools 700:benchmarks 7291:tests

lint: setup  ## linter, types, import contract, sizes, schemas
	@for size in $(SIZES); do \
		lines=$$(find $$(echo $${size#*:} | tr , ' ') -name '*.py' | xargs cat | wc -l); \
		[ $$lines -le $${size%%:*} ] || { echo "error: $${size#*:} have $$lines lines, allowed are $${size%%:*}"; exit 1; }; \
	done
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	check-jsonschema --quiet --builtin-schema vendor.citation-file-format --default-filetype yaml CITATION.cff
	check-jsonschema --quiet --builtin-schema vendor.dependabot .github/dependabot.yml
	check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml

# tests/conftest.py has the order: the longest tests first.
PYTEST := pytest --numprocesses $(TESTERS) --dist loadscope --no-loadscope-reorder

check: lint  ## before a commit: linter, types and the tests that start no other process
	$(PYTEST) -m "not slow"

test: lint  ## everything, as CI runs it
	$(PYTEST) --durations 10

faults: setup  ## deliberate faults, each of which a test has to find; WORDS=resume: some, SINCE=main: of changed files
	python -m tests.faults $(WORDS) $(if $(SINCE),--since $(SINCE))

bench: setup  ## ours beside the usual ways, on this machine: minutes; writes docs/performance.md
	python -m benchmarks

lock:  ## pin every dependency again, for Linux and macOS, Python 3.11 and 3.12
	UV_CUSTOM_COMPILE_COMMAND="make lock" uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --upgrade --quiet --output-file requirements.lock

audit: setup  ## known vulnerabilities of the pinned dependencies
	pip-audit --requirement requirements.lock --require-hashes --disable-pip
