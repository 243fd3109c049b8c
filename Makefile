# On a fresh machine, `make study` and `make test` suffice: every target makes the environment first.
#
#   make study                 the default study, config.yaml
#   make study STUDY=studies/full.yaml CORES=2 SCATTER=4
#   make summary, make audit   what a study found, and its verdicts on the paper's claims
#   make interim               the results of the finished cells of an unfinished study, which may be running
#   make study FORCE=RULE      run a rule again, and all that follows from it
#   make new MODEL=... TEXT=...  write a study of a model and a text of your own: MODEL is a folder, a GGUF file or a
#                              name on the hub; NAME=..., EVALUATION=... (another text) and ELSEWHERE=1 (another machine)
#   make pin STUDY=...         write the commits of a study's branches and tags on the hub into pins.yaml
#   make plan                  what a study would run, and its cost; TFLOPS=400 DISK=2GB/s NETWORK=1GB/s
#                              DEVICE_MEMORY=80: on another machine, with a GPU of 80 GB
#   make study MODELS=... CLAIMS=... SEEDS=...   a part of a study: some models, the cells of some claims, some seeds;
#                              also plan, audit, ...
#   make fetch                 everything of a study that comes over the network
#   make study PROFILE=slurm   a study on a cluster, by workflow/profiles/slurm or a folder of your own
#   make full                  the study behind the README's verdicts
#   make test, make check      tests; formatting, linting, types, layers, studies
#   make test-workflow         the tests that run Snakemake on small studies
#   make test-long             the tests that take minutes: memory limits, damaged files, DVC
#   make test-cluster          the tests that run studies on a real Slurm, which they start
#   make test-fast             the tests of the settings, the costs and the statistics alone
#   make verify, make repair   whether a study is whole; make what is damaged or missing again
#   make tidy                  remove the candidates of finished cells, which take most of the disk of a search
#   make report                run a study, and build its audit page and Snakemake's report
#   make anchors               our masks, perplexities and times beside llm-compressor's, in docs/results/anchors.md
#   make archive               code, records and how to check them, of a finished study, in one file to deposit
#   make compare A=... B=...   differences between two studies, and what may explain them
#   make gpu-check             what the GPU of this machine computes, how fast, and in how much memory
#   make bench                 run the default study, then measure speed and memory, as ratios
#   make docs                  the documentation, site/index.html
#   make results               run the default, the full and the quirks' study, and keep the new results in docs/
#   make kept                  the tables, verdicts and figures of docs/ again, from the records kept there

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
STUDY ?= config.yaml
# A folder of workflow/profiles, or any other.
PROFILE ?= local
CORES ?= all
ENV := .venv
BIN := $(ENV)/bin
READY := $(ENV)/.ready

export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONPATH := $(CURDIR)/workflow/scripts

# Otherwise a misspelt word would be ignored, and the whole study planned or run. A `make` that another one starts has
# that one's words, too, and cannot tell them from its own.
WORDS := PYTHON STUDY PROFILE CORES MODELS CLAIMS SEEDS DEVICE_MEMORY TFLOPS DISK NETWORK SCATTER FORCE ELSEWHERE VERBOSE
WORDS_new := MODEL TEXT NAME EVALUATION
WORDS_compare := A B
WORDS_anchors := ARGS
WORDS_gpu-check := ARGS
WORDS_test-cluster := ARGS
KNOWN := $(WORDS) $(foreach goal,$(MAKECMDGOALS),$(WORDS_$(goal)))
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
ifneq ($(if $(filter 0,$(MAKELEVEL)),$(filter-out $(KNOWN),$(GIVEN))),)
$(error unknown: $(filter-out $(KNOWN),$(GIVEN)). `make $(or $(MAKECMDGOALS),help)` knows $(strip $(KNOWN)); \
	set variables of the environment before the command, as in `NAME=value make ...`)
endif

# Snakemake ignores a profile that does not exist.
PROFILE_FOLDER = $(or $(firstword $(wildcard workflow/profiles/$(PROFILE)/profile.yaml $(PROFILE)/profile.yaml)),\
	$(error no profile $(PROFILE): expected one of $(notdir $(wildcard workflow/profiles/*)), or a folder with a profile.yaml))
# A part of a study: names or numbers, separated by commas or spaces.
PART = $(if $(MODELS),--models "$(MODELS)") $(if $(CLAIMS),--claims "$(CLAIMS)") $(if $(SEEDS),--seeds "$(SEEDS)")
CONFIG = study="$(STUDY)" $(if $(MODELS),models="$(MODELS)") $(if $(CLAIMS),claims="$(CLAIMS)") \
	$(if $(SEEDS),seeds="$(SEEDS)") $(if $(DEVICE_MEMORY),device_memory="$(DEVICE_MEMORY)") $(if $(TFLOPS),tflops="$(TFLOPS)")
# On a cluster, the nodes have as many cores as they have, and the profile says how many this machine uses.
SNAKEMAKE = snakemake $(if $(shell grep -s "^executor:" "$(PROFILE_FOLDER)" | grep -v "local *$$"),,--cores "$(CORES)") \
	--workflow-profile "$(patsubst %/profile.yaml,%,$(PROFILE_FOLDER))" --config $(CONFIG) \
	$(if $(SCATTER),--set-scatter windows="$(SCATTER)")

# How `freelunch run` and `freelunch repair` run Snakemake.
RUN_OPTIONS = $(PART) --cores "$(CORES)" $(if $(SCATTER),--scatter "$(SCATTER)") \
	$(if $(TFLOPS),--tflops "$(TFLOPS)") $(if $(DEVICE_MEMORY),--device-memory "$(DEVICE_MEMORY)")

.PHONY: anchors gpu-check help env new pin study fetch full plan summary interim audit verify archive repair tidy report compare test test-fast test-workflow test-long test-cluster check format bench docs results kept lock settings

help:
	@sed -n '3,34s/^#   //p' Makefile

env: $(READY)

# We use pip rather than uv, since pip finds a CPU build of torch on machines that keep one and does not
# insist on another build. The lock holds every package except torch.
$(READY): pyproject.toml envs/lock.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: PYTHON=$(PYTHON) is older than \
	Python 3.11, or not there; name another one: make env PYTHON=python3.11" >&2; exit 1; }
	@echo "Making the environment in $(ENV), which takes a few minutes"
	@# An environment that another Python made would keep that Python.
	@test "$$($(BIN)/python -V 2>&1)" = "$$($(PYTHON) -V 2>&1)" || rm -rf $(ENV)
	@$(PYTHON) -m venv $(ENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check "pip>=25.1,<27"
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-compile --group run --group dev --group docs \
	  -r envs/lock.txt
	@# All cores compile what pip would compile on one. Like pip, this leaves out files for a newer Python.
	@$(BIN)/python -m compileall -qq -j 0 $(ENV)/lib || true
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

new: env
	@python -m freelunch new "$(MODEL)" "$(TEXT)" $(if $(NAME),--name "$(NAME)") \
	  $(if $(EVALUATION),--evaluation "$(EVALUATION)") $(if $(ELSEWHERE),--elsewhere)

pin: env
	@python -m freelunch pin "$(STUDY)" $(PART)

# An interrupted run prints FREELUNCH_COMMAND, which resumes it.
study: env
	@FREELUNCH_COMMAND="$(strip make study $(MAKEOVERRIDES))" \
	  python -m freelunch run "$(STUDY)" $(RUN_OPTIONS) --profile "$(PROFILE)" \
	  $(if $(FORCE),--force "$(FORCE)") $(if $(ELSEWHERE),--elsewhere)

# Downloads run here, whatever the profile: nodes of a cluster may have no network.
fetch: env
	@FREELUNCH_COMMAND="$(strip make fetch $(MAKEOVERRIDES))" \
	  python -m freelunch run "$(STUDY)" $(RUN_OPTIONS) --profile local --elsewhere -- fetch

full:
	$(MAKE) study STUDY=studies/full.yaml

plan: env
	@python -m freelunch plan "$(STUDY)" $(PART) $(if $(TFLOPS),--tflops "$(TFLOPS)") $(if $(DISK),--disk "$(DISK)") \
	  $(if $(NETWORK),--network "$(NETWORK)") $(if $(DEVICE_MEMORY),--device-memory "$(DEVICE_MEMORY)")

summary: env
	@python -m freelunch summary "$(STUDY)" $(PART)

# Tables, verdicts and figures of the cells that have finished.
interim: env
	@python -m freelunch interim "$(STUDY)" $(PART)

# The verdicts, and where the page with the evidence is.
audit: env
	@python -m freelunch audit "$(STUDY)" $(PART)

# Reads everything that a study made, and compares it with the digests that were noted when it was made.
verify: env
	@python -m freelunch verify "$(STUDY)" $(PART)

tidy: env
	@python -m freelunch tidy "$(STUDY)" $(PART)

archive: env
	@python -m freelunch archive "$(STUDY)" $(PART)

repair: env
	@python -m freelunch repair "$(STUDY)" $(RUN_OPTIONS) --profile "$(PROFILE)"

report: env
	$(SNAKEMAKE)
	folder="results/$$(python -m freelunch name "$(STUDY)")" && \
	$(SNAKEMAKE) --report "$$folder/report.zip" && echo "The audit: $$folder/audit/index.html"

# llm-compressor wants an older transformers than the program.
ANCHORS := .venv-anchors

$(ANCHORS)/.ready: envs/anchors.txt
	@echo "Making the environment of llm-compressor in $(ANCHORS)"
	@$(PYTHON) -m venv $(ANCHORS)
	@$(ANCHORS)/bin/pip install --quiet --disable-pip-version-check -r envs/anchors.txt
	@touch $@

# ARGS="wanda-u50 sparsegpt-2of4" compares only these, and leaves the page as it is. On a busy machine, take CORES=1:
# threads that wait for each other cost processor time.
anchors: env $(ANCHORS)/.ready
	PYTHONPATH=$(PYTHONPATH):tests/support python tests/anchors/anchors.py \
	  $(if $(filter-out all,$(CORES)),--cores "$(CORES)") $(ARGS)

# A and B: a config that was run, its results, or a folder of records, such as docs/full.
compare: env
	@python -m freelunch compare "$(A)" "$(B)"

# Two test files at a time, each in a process with one thread, since the models in tests are tiny.
TWO_FILES := --numprocesses 2 --dist loadfile --no-loadscope-reorder

test: env
	OMP_NUM_THREADS=1 python -m pytest -m "not gpu and not long" --ignore tests/workflow --ignore tests/cluster $(TWO_FILES)

# Together with those above, they would take more than a quarter of an hour.
test-workflow: env
	OMP_NUM_THREADS=1 python -m pytest tests/workflow -m "not gpu and not long" $(TWO_FILES)

# Models larger than the memory they get, damage of every kind, DVC.
test-long: env
	OMP_NUM_THREADS=1 python -m pytest -m long --ignore tests/cluster $(TWO_FILES)

# Studies on a real Slurm, which the tests start and stop. It needs root, slurm-wlm and munge.
test-cluster: env
	OMP_NUM_THREADS=1 python -m pytest tests/cluster $(ARGS)

# Tests to run while editing: they compute nothing with a model.
test-fast: env
	OMP_NUM_THREADS=1 python -m pytest --numprocesses 2 --dist loadfile tests/study tests/costs tests/analysis

check: env
	ruff format --check .
	ruff check .
	snakefmt --check Snakefile workflow
	snakemake --lint
	mypy
	lint-imports
	for study in config.yaml studies/*.yaml; do python -m freelunch check $$study --elsewhere; done

format: env
	ruff format .
	ruff check --fix .
	snakefmt Snakefile workflow

# What this machine's GPU computes, how fast, and in how much memory.
gpu-check: env
	PYTHONPATH=$(PYTHONPATH):tests/support python tests/support/gpu_check.py $(ARGS)

bench: study
	PYTHONPATH=$(PYTHONPATH):tests/support python tests/bench/bench.py

# Broken links and missing pages fail the build.
docs: env
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "The documentation: site/index.html"

# docs/ keeps the records of these studies, with the table, the verdicts and the figures made from them. Tests check
# that the two agree. `make compare` shows whether another machine agrees. Those of studies/budgets.yaml, which takes
# twenty hours, studies/precision.yaml and studies/gemma.yaml are added by hand as their cells finish.
results: full
	$(MAKE) study STUDY=config.yaml
	$(MAKE) study STUDY=studies/quirks.yaml
	for name in laptop full quirks; do \
	  rm -rf docs/$$name/records; \
	  cp -r results/$$name/records docs/$$name/records; \
	done
	$(MAKE) kept

# Make docs/ again from the kept records, after a change of wording or colours.
kept: env
	python -m freelunch.audit.rebuild_docs config.yaml docs/laptop
	python -m freelunch.audit.rebuild_docs studies/full.yaml docs/full
	python -m freelunch.audit.rebuild_docs studies/quirks.yaml docs/quirks
	python -m freelunch.audit.rebuild_docs studies/budgets.yaml docs/budgets
	python -m freelunch.audit.rebuild_docs studies/precision.yaml docs/precision
	python -m freelunch.audit.rebuild_docs studies/gemma.yaml docs/gemma
	python -m freelunch.audit.leaderboard docs

# Generate the schema for editors and the settings page of the documentation from the settings classes.
settings: env
	python -m freelunch schema > workflow/schemas/config.schema.json
	python -m freelunch settings > docs/guide/settings.md

# All packages that the pins in pyproject.toml bring along, except torch and what its builds bring along.
lock: env
	$(BIN)/pip freeze --exclude-editable --exclude torch | grep -v -i -E '^(nvidia|cuda|triton)' > envs/lock.txt
