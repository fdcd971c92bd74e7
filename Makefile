# `make train` and `make test` work on a fresh machine with Python 3.11 or later: they make their environments first.
# Training takes the newest Python that runs here, since newer versions of JAX need one (0.11: Python 3.12). The tests
# compare with PyTorch and have an environment of their own, with the oldest. Name another: make train PYTHON=python3.12
PYTHON ?= $(shell .ci/find_python 3.13 3.12 3.11)
TEST_PYTHON ?= $(shell .ci/find_python 3.11 3.12 3.13)
NEWEST_PYTHON ?= $(shell .ci/find_python 3.13 3.12)
BIN := .venv-test/bin
INSTALLED := .venv/.installed
TESTABLE := .venv-test/.installed
NEWEST := .venv-newest/.installed
BEAM := .venv-beam/.installed
LM_EVAL := .venv-lm-eval/.installed
AOT := .venv-aot/.installed
DOCS := .venv-docs/.installed

.PHONY: install train test lint check quick newest beam docs texts harness aot launch launchers browser chromium sweep \
	fuzz gpu soak bench

# $(call environment,INTERPRETER,FOLDER,PACKAGES): the folder is an environment with these packages. The stamp in it
# makes later calls instant, and a changed pyproject.toml install again.
define environment
@test -n '$(1)'
@$(1) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "flaxmill needs Python 3.11 or later")'
$(1) -m venv $(2)
$(2)/bin/python -m pip install -qq --upgrade pip
$(2)/bin/python -m pip install -qq --editable $(3)
@touch $@
endef

install: $(INSTALLED)

$(INSTALLED): pyproject.toml
	$(call environment,$(PYTHON),.venv,.)

$(TESTABLE): pyproject.toml
	$(call environment,$(TEST_PYTHON),.venv-test,'.[test]')

# Fields are passed on: make train ARGS='bert_tiny --steps 100'
train: $(INSTALLED)
	.venv/bin/flaxmill train $(ARGS)

# The tutorial on fine-tuning downloads Debian's package fortunes, and is skipped where apt does not know it.
FORTUNES := cd "$$(mktemp -d)" && apt-get -qq download fortunes >/dev/null 2>&1
texts:
	@$(FORTUNES) || { $(AS_ROOT) apt-get -qq update >/dev/null 2>&1; $(FORTUNES); } || \
	  { echo "apt cannot download fortunes: give it a mirror of Debian's packages, then make texts again"; exit 1; }

# A test module stays in one of the two processes, with the models that its tests share.
test: $(TESTABLE)
	$(BIN)/python -m pytest -n 2 --dist loadscope $(ARGS)

lint: $(TESTABLE)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

# Side by side: the checker of types takes one core for most of a minute.
check: $(TESTABLE)
	$(MAKE) -j 2 lint quick

QUICK := not slow and not sweep and not fuzz and not aot and not launch
quick: $(TESTABLE)
	$(BIN)/python -m pytest -n 2 --dist loadscope -m '$(QUICK)' $(ARGS)

# With the newest JAX, and without PyTorch, which might have no CPU build for that Python: what compares with it is
# skipped by its missing import.
newest: $(NEWEST)
	.venv-newest/bin/python -m pytest -n 2 --dist loadscope -m '$(QUICK)' $(ARGS)

$(NEWEST): pyproject.toml
	$(call environment,$(NEWEST_PYTHON),.venv-newest,'.[test-without-torch]')

# Apache Beam bounds many packages: it has an environment of its own, so that its bounds are nobody else's.
$(BEAM): pyproject.toml
	$(call environment,$(TEST_PYTHON),.venv-beam,'.[beam]' pytest)

# Preparation on Beam's local runner with two workers.
beam: $(BEAM)
	.venv-beam/bin/python -m pytest tests/data/preparation/test_beam.py $(ARGS)

# The documentation as a site, in .site: a dead link, or a page that no other leads to, fails it.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet

$(DOCS): pyproject.toml
	@test -n '$(TEST_PYTHON)'
	$(TEST_PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install -qq --upgrade pip
	.venv-docs/bin/python -m pip install -qq 'mkdocs-material>=9.7'
	@touch $@

# The lm-evaluation-harness pulls seventy packages, and its own model of transformers, with which it is compared.
$(LM_EVAL): pyproject.toml
	$(call environment,$(TEST_PYTHON),.venv-lm-eval,'.[lm-eval]' pytest torch==2.13.0 'transformers>=5.23' accelerate)

# Tasks of local files, measured by the harness with flaxmill's answers and with transformers'.
harness: $(LM_EVAL)
	.venv-lm-eval/bin/python -m pytest tests/train/harness/test_harness.py $(ARGS)

# The compilers of TPUs and GPUs that are absent: an environment of its own keeps them away from all other tests.
$(AOT): pyproject.toml
	$(call environment,$(TEST_PYTHON),.venv-aot,'.[plan]' pytest pytest-xdist)

# Programs for TPUs and GPUs, compiled and read. The files are named, since most other tests need more packages; each
# has a process, with the programs that its tests share.
aot: $(AOT)
	.venv-aot/bin/python -m pytest -n 2 --dist loadfile -m aot tests/train/plan/test_absent_hardware.py tests/train/test_step_programs.py $(ARGS)

# The files in docs/launch start jobs, with a real Slurm and Open MPI on this machine.
launch: $(TESTABLE) launchers
	$(BIN)/python -m pytest -m launch $(ARGS)

# Debian's packages; sudo where this user is not root.
LAUNCHERS := slurm-wlm munge openmpi-bin
AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)
launchers:
	@[ $$(dpkg-query -Wf '$${Status}\n' $(LAUNCHERS) 2>/dev/null | grep -c ' installed$$') = $(words $(LAUNCHERS)) ] || { \
	  { $(AS_ROOT) apt-get -qq update && \
	    $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $(LAUNCHERS); \
	  } >/dev/null 2>&1 || { echo "apt cannot install $(LAUNCHERS): install them as root, then make launch again"; exit 1; }; }

# The report's page in Chromium, which the tests start themselves.
browser: $(TESTABLE) chromium
	$(BIN)/python -m pytest tests/train/report/test_page_in_browser.py $(ARGS)

chromium:
	@[ -n "$$(command -v chromium chromium-browser google-chrome)" ] || { \
	  { $(AS_ROOT) apt-get -qq update && \
	    $(AS_ROOT) env DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium; \
	  } >/dev/null 2>&1 || { echo "apt cannot install chromium: install it as root, then make browser again"; exit 1; }; }

# Runs killed and signalled at hundreds of random moments, alone and as jobs of four, and every model on every mesh,
# of which `make test` takes some: two hours.
sweep: $(TESTABLE)
	$(BIN)/python -m pytest -s -m sweep $(ARGS)

# Files as nobody wrote them, 20,000 of each kind, and 200 for the command itself: some hours. `make fuzz
# FUZZ_TARGETS="csv config.json" FUZZ_INPUTS=1000` is less.
fuzz: $(TESTABLE)
	$(BIN)/python -m pytest -s -m fuzz $(ARGS)

# On a machine with an NVIDIA GPU and `.venv-test/bin/pip install -e '.[cuda]'`: its kernels, models and runs on it. The processes
# share the GPU, so that none may take all of its memory first.
gpu: $(TESTABLE)
	JAX_PLATFORMS=cuda,cpu XLA_PYTHON_CLIENT_PREALLOCATE=false $(BIN)/python -m pytest -n 4 -m gpu $(ARGS)

# Twenty minutes of training, saving and evaluating: memory, files and step time stay flat.
soak: $(INSTALLED)
	.venv/bin/python benchmarks/soak.py $(ARGS)

# All that need only this machine and some minutes: soak has a target of its own, finetuning reads texts that you
# name, mfu needs an accelerator, step_programs the compilers of absent ones, preparation_memory reads 5 GB, and
# preparation_text measures nothing.
NOT_HERE := benchmarks/soak.py benchmarks/finetuning.py benchmarks/mfu.py benchmarks/preparation_memory.py \
	benchmarks/preparation_text.py benchmarks/step_programs.py
bench: $(TESTABLE)
	set -e; for benchmark in $(filter-out $(NOT_HERE),$(wildcard benchmarks/*.py)); do $(BIN)/python $$benchmark; done
