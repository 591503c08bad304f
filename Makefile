# Every task of the project, in the order of the data. `make` lists them.
# Each task builds the environment in .venv first if it is missing or out of date.

PYTHON ?= python3.13 python3.12 python3.11 python3# the first that is 3.11 or newer
WORKERS ?= 1
TEST_PROCESSES ?= 2# each has its own tables and servers, about 2 GB
PROCESSES ?= 2# of torchrun
PORT ?= 9000# above 8000 to 8999, where Prefect starts its temporary server
# Without a default here, because the code has one: AS_OF, START, END, MODEL, TRIALS, ONLY.

PY := .venv/bin/python
STAMP := .venv/.installed
AWS := .venv/aws/bin
EXAMPLE_CERTIFICATE := arn:aws:acm:us-east-1:111111111111:certificate/00000000-0000-0000-0000-000000000000
option = $(if $($(1)),--$(2) $($(1)))# $(call option,AS_OF,as-of): --as-of and its value, if it is set

# One time zone, so that no output depends on the machine.
export TZ := UTC
# A piped run shows its progress while it runs.
export PYTHONUNBUFFERED := 1
# No telemetry. Evidently and MLflow read the first variable, and only in this spelling.
export DO_NOT_TRACK := true
export MLFLOW_DISABLE_TELEMETRY := true
export PREFECT_SERVER_ANALYTICS_ENABLED := false
# Loading a model must not run code from its artifact.
export MLFLOW_ALLOW_PICKLE_DESERIALIZATION := false
# Without git MLflow would print a page about it.
export GIT_PYTHON_REFRESH := quiet
# Prefect's database is part of var. Its temporary server may start slowly on a busy machine, and its
# log lines would hide ours.
export PREFECT_HOME := $(CURDIR)/var/prefect
$(shell mkdir -p "$(PREFECT_HOME)")# Prefect creates this folder, but not its parent
export PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS ?= 120
export PREFECT_LOGGING_LEVEL ?= WARNING
# Set-up compiles only what it imports; the first use compiles the rest, and must keep it.
export PYTHONDONTWRITEBYTECODE :=
# Caps OpenMP busy-waiting: with the default, LightGBM takes 7 times as long beside another busy
# program; with no busy-waiting at all it takes twice as long when there is none.
export GOMP_SPINCOUNT ?= 1000
# One line instead of eleven about the version of Node, which `aws-check` starts.
export JSII_SILENCE_WARNING_END_OF_LIFE_NODE_VERSION := 1
export JSII_SILENCE_WARNING_DEPRECATED_NODE_VERSION := 1
# pip asks no questions.
export PIP_NO_INPUT := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help setup ingest features train shards train-shards promote serve keys monitor retrain \
	rollback score export demo replay drills policies backtest tune reproduce bench bench-serving \
	attack costs spark-check growth aws-check \
	results check test tests e2e lint typecheck unit browser pictures site rename fork-check clean
.DEFAULT_GOAL := help

help:
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-19s %s\n", $$1, $$2 }' Makefile

setup: $(STAMP) ## build .venv from the pinned versions (every task does it when needed)

ingest: $(STAMP) ## the source as typed Parquet tables
	$(PY) -m pipelines.ingest

features: $(STAMP) ## the feature tables, and the online store as of AS_OF
	$(PY) -m pipelines.build_features $(call option,AS_OF,as-of)

train: $(STAMP) ## a network on what was known at AS_OF, registered as challenger
	$(PY) -m pipelines.train $(call option,AS_OF,as-of)

shards: $(STAMP) ## the examples and their soft targets as Parquet files, for training beyond memory
	$(PY) -m pipelines.write_shards $(call option,AS_OF,as-of)

train-shards: $(STAMP) ## the network from the shards, in bounded memory, by torchrun in PROCESSES processes
	$(PY) -m torch.distributed.run --standalone --nproc-per-node=$(PROCESSES) -m pipelines.train_shards

promote: $(STAMP) ## the gate: makes the challenger the champion unless it is clearly worse in shadow
	$(PY) -m pipelines.promote $(call option,AS_OF,as-of)

serve: $(STAMP) ## the API with the champion, on PORT, in WORKERS processes
	$(PY) -m serving.server --port $(PORT) --workers $(WORKERS)

keys: $(STAMP) ## API keys: make keys DO="create --client NAME --scopes predict,outcomes", list, revoke
	$(PY) -m serving.keys $(or $(DO),list)

monitor: $(STAMP) ## drift and performance of the logged predictions, and the retrain decision, at AS_OF
	$(PY) -m pipelines.monitor $(call option,AS_OF,as-of)

retrain: $(STAMP) ## a challenger on everything known at AS_OF; it scores in shadow until the gate
	$(PY) -m pipelines.retrain $(call option,AS_OF,as-of)

rollback: $(STAMP) ## back to the previous champion
	$(PY) -m pipelines.rollback

score: $(STAMP) ## the champion's predictions for a Parquet file: make score IN=x.parquet OUT=y.parquet
	$(PY) -m pipelines.score $(IN) $(OUT)

export: $(STAMP) ## the champion as exported models that run without this repository, also in int8
	$(PY) -m pipelines.export_model

# With 1.5 GB the features of a year take as long as with 4 GB, and less memory in all.
demo replay: export ONTIME_DUCKDB_MEMORY ?= 1500MB

demo: $(STAMP) ## ingest, train, serve, replay, and a report of what the loop gained
	$(PY) -m simulation.demo

replay: $(STAMP) ## the demo from START to END, any part of the data
	$(PY) -m simulation.demo $(call option,START,start) $(call option,END,end)

drills: $(STAMP) ## incidents through the whole system: feeds stop, units and labels break (a quarter of an hour)
	$(PY) -m simulation.drills $(call option,ONLY,only)

policies: $(STAMP) ## retraining policies on the same requests: schedule, gate, alerts (half an hour)
	$(PY) -m experiments.policies $(call option,END,end)

backtest: $(STAMP) ## every model on every month, trained on all months before (half an hour)
	$(PY) -m experiments.backtest

tune: $(STAMP) ## TRIALS trials of MODEL (network, lightgbm); writes the best hyperparameters
	$(PY) -m experiments.tune $(call option,MODEL,model) $(call option,TRIALS,trials)

reproduce: $(STAMP) ## a logged run again, from its source on, and compared: make reproduce RUN=id
	$(PY) -m experiments.reproduce $(RUN)

bench: $(STAMP) ## speed and memory against DataLoader, LightGBM and plain DuckDB (ten minutes)
	$(PY) -m experiments.benchmark

bench-serving: $(STAMP) ## the API under load against bare FastAPI, naive Feast and MLflow (needs wrk)
	$(PY) -m experiments.benchmark_serving

attack: $(STAMP) ## generated and hostile requests, then kill -9 under load (20 minutes; SHORT=1: minutes)
	$(PY) -m experiments.attack $(if $(SHORT),--short)

site: $(STAMP) ## the finished demo as a static site in var/site, with the model in the browser
	$(PY) -m experiments.static_site

pictures: $(STAMP) ## the pictures in docs/images: the pages, the loop and the tools, from the finished demo
	$(PY) -m experiments.pictures

costs: $(STAMP) ## benefit and cost of every feature, from the finished demo (a minute)
	$(PY) -m experiments.feature_costs

spark-check: $(STAMP) .venv/.spark ## features and join on Spark against DuckDB, every cell of the year (needs Java 17)
	$(PY) -m experiments.spark_check

growth: $(STAMP) .venv/.spark ## time and memory on both engines at TIMES the source, or of SOURCE (hours; needs Java 17)
	$(PY) -m experiments.growth $(call option,TIMES,times) $(call option,SOURCE,source) $(call option,LIMIT,limit) \
		$(call option,SPARK_FEATURES,spark-features)

aws-check: .venv/aws/.installed .venv/ministack/.installed ## the stack on AWS: synthesized, checked, deployed to an emulator, with Docker also its containers (needs Node 20 or newer)
	@command -v node >/dev/null || { echo "aws-check needs Node 20 or newer: aws-cdk-lib runs in it" >&2; exit 1; }
	rm -rf var/aws
	$(AWS)/python -m pytest -c /dev/null --rootdir . --noconftest -p no:cacheprovider -q tests/unit/infra/test_aws.py
	CDK_OUTDIR=var/aws/development CDK_CONTEXT_JSON='{"repository": "owner/name"}' $(AWS)/python -m infra.aws.app
	CDK_OUTDIR=var/aws/production CDK_CONTEXT_JSON='{"size": "production", "certificate": "$(EXAMPLE_CERTIFICATE)"}' $(AWS)/python -m infra.aws.app
	$(AWS)/cfn-lint --ignore-checks W3005 -- var/aws/*/*.template.json # a dependency that CDK states twice
	$(AWS)/checkov --directory var/aws --framework cloudformation --skip-download --compact --quiet
	.venv/ministack/bin/python -m infra.aws.emulator var/aws/development/ontime-development.template.json var/aws/production/ontime-production.template.json
	.venv/ministack/bin/python -m infra.aws.check_deployment var/aws/development/ontime-development.template.json
	$(AWS)/python -m infra.aws.sizes

results: $(STAMP) ## docs/results.md and the numbers of README.md, from the last reports
	$(PY) -m experiments.write_results

check: $(STAMP) ## lint, types, import contracts and the fast tests, within a minute
	@$(MAKE) --no-print-directory --jobs=2 lint typecheck unit

test: $(STAMP) ## every check: lint, types, import contracts, all tests (COVERAGE=1 measures it)
	@$(MAKE) --no-print-directory --jobs=3 lint typecheck tests

tests: $(STAMP)
	$(PY) -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile --no-loadscope-reorder \
		$(if $(COVERAGE),--cov --cov-report=term --cov-report=xml:var/reports/coverage.xml) \
		--junitxml=var/reports/tests.xml --durations=10

e2e: $(STAMP) ## the compose stack, up, with faults, and down again: Docker with Compose v2 and 8 GB
	$(PY) -m pytest tests/e2e -m e2e -v --durations=10

browser: $(STAMP) ## the pages in Chromium: every view, a running replay, accessibility
	$(PY) -m pytest tests/browser -v

lint: $(STAMP) ## ruff (rules and format) and the import contracts
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()' --no-cache --no-logo

typecheck: $(STAMP) ## mypy, strict
	$(PY) -m mypy

unit: $(STAMP)
	$(PY) -m pytest tests/unit tests/problem -m 'not slow' -q --numprocesses=$(TEST_PROCESSES) --dist=loadfile

rename: $(STAMP) ## gives a fork its own name: make rename NAME=skylate
	$(PY) -m infra.fork.rename $(NAME) $(if $(ALLOW_DIRTY),--allow-dirty)

fork-check: $(STAMP) ## clones with another problem and another name pass the checks (SHORT=1: two weeks of demo)
	$(PY) -m infra.fork.check $(if $(SHORT),--short)

clean: ## remove the environment and everything that running wrote (var)
	rm -rf .venv var .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

# An environment of its own: checkov pins old versions of packages that the project uses.
.venv/aws/.installed: infra/aws/requirements.txt $(STAMP)
	$(PY) -m venv --clear .venv/aws
	$(AWS)/python -m pip install --quiet --requirement infra/aws/requirements.txt
	@touch $@

# Another one: MiniStack and checkov pin different versions of botocore.
.venv/ministack/.installed: infra/aws/emulator-requirements.txt $(STAMP)
	$(PY) -m venv --clear .venv/ministack
	.venv/ministack/bin/python -m pip install --quiet --requirement infra/aws/emulator-requirements.txt
	@touch $@

.venv/.spark: $(STAMP)
	@PYTHON='$(PYTHON)' EXTRAS=,spark infra/setup.sh
	@touch $@

$(STAMP): pyproject.toml constraints.txt infra/setup.sh
	@PYTHON='$(PYTHON)' infra/setup.sh
	@touch $@
