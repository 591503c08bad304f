# Every task of the project, in the order of the data. `make` lists them.
# Nothing needs to be set up first: each task builds the environment in .venv if it has to.

PYTHON ?= python3.13 python3.12 python3.11 python3# the first that is 3.11 or newer
AS_OF ?= 2013-05-01# what was known at this moment, UTC
START ?= 2013-05-01# replay from here
END ?= 2013-08-01# up to here
DAYS ?= 28
MODEL ?= network
TRIALS ?= 50
PORT ?= 9000# above 8000 to 8999, where Prefect starts its temporary server

PY := .venv/bin/python
STAMP := .venv/.installed
TORCH_CPU := https://download.pytorch.org/whl/cpu

# One time zone for whatever prints a time, so that no output depends on the machine.
export TZ := UTC
# A piped run shows its progress as it goes.
export PYTHONUNBUFFERED := 1
# Nothing phones home. Evidently and MLflow read the first, and only in this spelling.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
# Loading a model must not run code from its artifact.
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
# A machine without git still trains; MLflow would print a page about it.
export GIT_PYTHON_REFRESH := quiet
# Prefect keeps its database in the project and not in the home folder. Its temporary server may
# take long to start on a busy machine, and its log lines would drown ours.
export PREFECT_HOME ?= $(CURDIR)/var/prefect
$(shell mkdir -p "$(PREFECT_HOME)")# Prefect makes its home, but not the folder above it
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120
export PREFECT_LOGGING_LEVEL ?= WARNING
# Set-up leaves compiling to the first import; were nothing kept, each start would do it again.
export PYTHONDONTWRITEBYTECODE :=
# A thread that waits for others looks a thousand times, then gives its core away. With the default,
# LightGBM takes seven times as long beside another busy program; giving up at once doubles its time
# when there is none.
export GOMP_SPINCOUNT ?= 1000
# Nobody answers a question of pip's.
export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup ingest features train promote serve monitor retrain rollback score export demo \
	replay yardstick rolling tune reproduce bench readme test e2e lint typecheck clean
.DEFAULT_GOAL := help

help:
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## build .venv from the pinned versions (every task does it when needed)

ingest: $(STAMP) ## the year's flights, weather and aircraft as typed Parquet tables
	$(PY) -m pipelines.ingest

features: $(STAMP) ## the feature tables, and the online store as of AS_OF
	$(PY) -m pipelines.materialize --as-of $(AS_OF)

train: $(STAMP) ## a network on what was known at AS_OF, registered as challenger
	$(PY) -m pipelines.train --as-of $(AS_OF)

promote: $(STAMP) ## the gate: the challenger becomes champion if it has earned it
	$(PY) -m pipelines.promote --as-of $(AS_OF)

serve: $(STAMP) ## the API with the champion, on PORT
	$(PY) -m uvicorn --factory serving.app:create_app --port $(PORT) --no-access-log

monitor: $(STAMP) ## drift and performance of what was served, and the decision, at AS_OF
	$(PY) -m pipelines.monitor --as-of $(AS_OF)

retrain: $(STAMP) ## a challenger on everything known at AS_OF, through the gate
	$(PY) -m pipelines.retrain --as-of $(AS_OF)

rollback: $(STAMP) ## back to the previous champion
	$(PY) -m pipelines.rollback

score: $(STAMP) ## the champion's answers for a Parquet file: make score IN=x.parquet OUT=y.parquet
	$(PY) -m pipelines.score $(IN) $(OUT)

export: $(STAMP) ## the champion as programs that run without this repository, also in 8 bits
	$(PY) -m pipelines.export

demo: $(STAMP) ## the whole story: ingest, train, serve, replay, and what it was worth
	$(PY) -m pipelines.demo

replay: $(STAMP) ## the same from START to END, any part of the year
	$(PY) -m pipelines.demo --start $(START) --end $(END)

yardstick: $(STAMP) ## the last demo against a new model every DAYS days, no gate
	$(PY) -m pipelines.yardstick --days $(DAYS)

rolling: $(STAMP) ## every model on every month from May, fitted on all before (some minutes)
	$(PY) -m pipelines.rolling

tune: $(STAMP) ## 50 trials of MODEL (network, lightgbm), compared in MLflow; the winner into tuned.json
	$(PY) -m pipelines.tune --model $(MODEL) --trials $(TRIALS)

reproduce: $(STAMP) ## a logged run made again, from the source on, and compared: make reproduce RUN=id
	$(PY) -m pipelines.reproduce $(RUN)

bench: $(STAMP) ## speed and memory against peers: DataLoader, LightGBM, plain DuckDB (ten minutes)
	$(PY) -m pipelines.bench

readme: $(STAMP) ## the last demo's figures into README.md
	$(PY) -m pipelines.readme

test: lint typecheck ## every check: lint, types, tests with coverage
	$(PY) -m pytest --cov --cov-report=term --durations=10

e2e: $(STAMP) ## the compose stack, up, broken and down again: Docker with Compose v2 and 8 GB
	$(PY) -m pytest tests/e2e -m e2e -v --durations=10

lint: $(STAMP) ## ruff, rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

typecheck: $(STAMP) ## mypy, strict
	$(PY) -m mypy

clean: ## remove what running wrote (var) and the environment
	rm -rf .venv var .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

# The environment. A Linux machine without an NVIDIA GPU takes torch from PyTorch's CPU index if
# that answers within 3 seconds (0.2 GB instead of several of CUDA), and else wherever pip finds it.
SUITABLE := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
# Compiling all 39,000 files takes longer than installing them; this compiles the ones we import,
# and shows that they do import.
WARM := import evidently.presets, feast, lightgbm, mlflow.models, prefect.server.api.server, torch
ANSWERS := import signal, urllib.request; signal.alarm(3); urllib.request.urlopen("$(TORCH_CPU)/torch/")

$(STAMP): pyproject.toml constraints.txt
	@$(PY) -m pip --version >/dev/null 2>&1 || for python in $(PYTHON); do \
		if $$python -c '$(SUITABLE)' >/dev/null 2>&1; then \
			echo "set-up: $$($$python --version) in .venv"; \
			$$python -m venv --clear .venv; \
			break; \
		fi; \
	done
	@$(PY) -m pip --version >/dev/null 2>&1 || { \
		echo "set-up needs Python 3.11 or newer with its venv module. Found:"; \
		for python in $(PYTHON); do \
			echo "  $$python: $$($$python --version 2>&1 | head -n 1)"; \
		done; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.12"; \
		exit 1; \
	} >&2
	@if test "$$(uname -s)" = Linux && ! command -v nvidia-smi >/dev/null \
		&& $(PY) -c '$(ANSWERS)' >/dev/null 2>&1; then \
		echo "set-up: torch for CPU from $(TORCH_CPU)"; \
		$(PY) -m pip install --no-compile --no-deps --timeout 15 --retries 1 --index-url $(TORCH_CPU) \
			--constraint constraints.txt torch || echo "set-up: no; pip takes its own"; \
	fi
	@echo "set-up: about 230 packages, some minutes the first time"
	$(PY) -m pip install --no-compile --constraint constraints.txt \
		--editable '.[pipelines,stack,dev]'
	@echo "set-up: first import"
	@$(PY) -W ignore -c '$(WARM)'
	@touch $@
