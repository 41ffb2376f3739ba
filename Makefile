# Everything from a fresh machine with python3 and make. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=
PIP := -m pip --quiet --disable-pip-version-check
LOCK := requirements.lock
PEERS := build/peers
FUZZ := build/fuzz
AUDIT := build/audit
OLDEST := build/oldest
VERSITYGW := build/versitygw

.PHONY: help demo test test-long check test-ids test-oldest-client test-containers \
	test-kafka-3.9 test-redis-7 gpu simulate quality faults soak lint format bench-drift \
	bench-calibration bench-off-policy bench-exploration peers bench-peers bench-replay \
	bench-http fuzz audit bill clients s3-server screenshots generated lock clean
help:            ## list the targets
	@grep -E '^[a-z0-9.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

# First all that the lock file names, then torch: a CPU build that an index offers has other hashes.
$(INSTALLED): pyproject.toml constraints.txt $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "nextclick needs Python 3.11 or newer; try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python $(PIP) install --no-deps --require-hashes -r $(LOCK)
	$(BIN)/python $(PIP) install -c constraints.txt torch
	$(BIN)/python $(PIP) install --no-deps --no-build-isolation -e .
	@$(BIN)/python $(PIP) check
	@touch $@

# A small environment on top of .venv: what its lock file names lies in front of what .venv has.
define layer
$(BIN)/python -m venv --clear $(@D)
$(@D)/bin/python $(PIP) install --no-deps --require-hashes -r $<
$(BIN)/python -c 'import site; print(site.getsitepackages()[0]); print("$(CURDIR)")' \
  > $$($(@D)/bin/python -c 'import site; print(site.getsitepackages()[0])')/nextclick.pth
@touch $@
endef

demo: $(INSTALLED)   ## run everything embedded; options by ARGS="--seconds 60"
	@$(BIN)/nextclick demo $(ARGS)

# In the order of the folders, so that the many short files of tests/unit come last: the processes
# that share out the files then end at the same time. A process that dies ends the run: xdist 3.8
# would wait for ever for the one in its place (its issue 1378).
BY_FILE := --dist loadfile --no-loadscope-reorder --max-worker-restart 0

# Three processes, since tests of services mostly wait: with two, two cores are half idle.
test: $(INSTALLED)   ## run the tests, three files at a time; options by ARGS="-k worker"
	@$(BIN)/pytest -n 3 $(BY_FILE) $(ARGS)

test-long: $(INSTALLED) ## what make test does shorter or leaves out; most faults are left to make faults
	@$(BIN)/pytest tests/faults/test_mutations.py tests/faults/test_ranks.py tests/simulation \
	  tests/integration tests/browser tests/unit --long -m long -n 2 $(BY_FILE) $(ARGS)

check: lint test-ids test ## what a change has to pass: lint, test-ids, test

test-ids: $(INSTALLED) ## the tests are the same ones at every second and with every hash seed
	@$(BIN)/python .ci/compare_test_ids.py

$(OLDEST)/.installed: tests/oldest-clients.lock $(INSTALLED)
	$(layer)

test-oldest-client: $(OLDEST)/.installed ## the Kafka and Redis tests on the oldest clients allowed
	@$(OLDEST)/bin/python -m pytest tests/contract $(addprefix tests/integration/test_, \
	  consumer.py worker.py topics_check.py) tests/faults/test_scaling.py $(ARGS)

test-containers: $(INSTALLED) ## build the image, run and scale docker-compose.yml, tests on containers
	@$(BIN)/python -m tests.containers.prepare
	@$(BIN)/pytest tests/containers --containers -x $(ARGS)
	@$(BIN)/python -m tests.containers.docker_api $(BIN)/pytest tests/contract tests/integration/test_consumer.py $(ARGS)

test-kafka-3.9: $(INSTALLED) ## the Kafka tests on Kafka 3.9, the oldest that is supported
	@$(BIN)/python -m tests.kafka_home tests/kafka-3.9-jars.toml build/kafka-3.9
	@KAFKA_HOME=$(CURDIR)/build/kafka-3.9 $(BIN)/pytest tests/contract \
	  tests/integration/test_consumer.py tests/integration/test_worker.py $(ARGS)

test-redis-7: $(INSTALLED) ## the Redis tests on the Redis that is installed; make test has Valkey 9
	@command -v redis-server > /dev/null || { echo "needs redis-server, 7 or newer"; exit 1; }
	@REDIS_SERVER_BINARY=redis-server $(BIN)/pytest tests/contract \
	  tests/integration/test_redis_login.py $(ARGS)

gpu: $(INSTALLED)    ## lists, fits, swaps and deltas on a CUDA device, beside the CPU's
	@$(BIN)/python -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "no CUDA device")'
	@$(BIN)/pytest tests/gpu --long $(ARGS)

simulate: $(INSTALLED) ## seed after seed of simulated histories; ARGS="--minutes 60"
	@$(BIN)/python -m tests.simulation $(ARGS)

quality: $(INSTALLED) ## bots, event types, experiments, worlds: what takes minutes each
	@$(BIN)/pytest tests/quality --long -s -o faulthandler_timeout=3600 $(ARGS)

faults: $(INSTALLED) ## break everything at length; a line a fault
	@$(BIN)/pytest tests/faults --long $(ARGS)

soak: $(INSTALLED)   ## three brokers, everything runs and breaks; ARGS="--soak 60 --seed 7" minutes
	@$(BIN)/pytest tests/faults/test_soak.py --long --soak 10 -o faulthandler_timeout=0 $(ARGS)

lint: $(INSTALLED)   ## ruff, mypy --strict, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## rewrite the code as ruff likes it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-drift: $(INSTALLED) ## twelve retrains while missions come and go; ARGS="--png drift.png"
	@$(BIN)/python -m nextclick.bench.drift $(ARGS)

bench-off-policy: $(INSTALLED) ## are off-policy estimates right? ARGS="--png off-policy.png"
	@$(BIN)/python -m nextclick.bench.off_policy $(ARGS)

bench-exploration: $(INSTALLED) ## does exploration pay? ARGS="--png exploration.png"
	@$(BIN)/python -m nextclick.bench.exploration $(ARGS)

bench-calibration: $(INSTALLED) ## are scores probabilities? ARGS="missions sessions/ --png calibration.png"
	@$(BIN)/python -m nextclick.bench.calibration $(ARGS)

bench-cold-items: $(INSTALLED) ## items without a click, by what the shop says of them; ARGS="--png cold-items.png"
	@$(BIN)/python -m nextclick.bench.cold_items $(ARGS)

bench-http: $(INSTALLED) ## the HTTP service at given rates and as fast as it can
	@$(BIN)/python -m nextclick.bench.http $(ARGS)

bench-replay: $(INSTALLED) ## a real log: replay, train, serve, hits; FILE=clicks.csv
	@$(BIN)/python -m nextclick.bench.replay $(FILE) $(ARGS)

# quixstreams wants an older librdkafka and pydantic than ours.
$(PEERS)/.installed: bench/peers/requirements.lock $(INSTALLED)
	$(layer)

peers: $(PEERS)/.installed ## the environment that bench-peers and its test need

bench-peers: peers ## our worker beside one written with Quix Streams
	@$(BIN)/nextclick bench peers --python $(PEERS)/bin/python $(ARGS)

$(FUZZ)/.installed: tests/fuzz/requirements.lock $(INSTALLED)
	$(layer)

fuzz: $(FUZZ)/.installed ## hostile clicks for the decoder; ARGS="--seconds 600", Linux
	@$(FUZZ)/bin/python -m tests.fuzz $(ARGS)

$(AUDIT)/.installed: docs/audit.lock
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python $(PIP) install --no-deps --require-hashes -r $<
	@touch $@

# --strict: what could not be looked up is a failure, not a pass.
audit: $(INSTALLED) $(AUDIT)/.installed ## known holes in what the services load; asks PyPI
	@$(BIN)/python docs/make_bill.py --pins > $(AUDIT)/pins.txt
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps -r $(AUDIT)/pins.txt $(ARGS)

clients: $(INSTALLED) ## the clients in examples/; AsyncAPI's parser, Grafana's schema; JDK 17, Maven, Go, Node
	@$(BIN)/pytest tests/clients --long $(ARGS)

$(VERSITYGW): tests/versitygw/go.mod tests/versitygw/go.sum
	@mkdir -p $(@D)
	cd tests/versitygw && go build -o $(CURDIR)/$@ github.com/versity/versitygw/cmd/versitygw
	@touch $@

s3-server: $(VERSITYGW) ## versitygw, the second S3 server of the long tests; Go

bill: $(INSTALLED)   ## write docs/bill-of-materials.md from what is installed
	@mkdir -p build
	@$(BIN)/python docs/make_bill.py > build/bill.md && mv build/bill.md docs/bill-of-materials.md

screenshots: $(INSTALLED) ## write docs/page-*.png from a demo; needs chromium
	@$(BIN)/python docs/make_screenshots.py

generated: $(INSTALLED) ## write what is made from code: settings, schemas, AsyncAPI, OpenAPI, dashboard
	@mkdir -p build
	@$(BIN)/python docs/make_configuration.py > build/page.md && mv build/page.md docs/configuration.md
	@$(BIN)/python docs/make_contracts.py
	@$(BIN)/python -m deploy.make_dashboard > build/board.json && mv build/board.json deploy/grafana/dashboards/nextclick.json

# Left out of the lock file: torch, and what only its CUDA build needs.
TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-, cublas \
	cuda-cupti cuda-nvrtc cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse \
	cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
COMPILE := build/uv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock"
PICK = grep -oE '"($(1))[^"]*[<>=][^"]*' pyproject.toml | tr -d '"'

lock:            ## write the lock files from pyproject.toml; newer versions by ARGS=--upgrade
	$(PYTHON) -m venv build/uv
	build/uv/bin/python $(PIP) install 'uv>=0.9,<1'
	$(COMPILE) $(ARGS) -c constraints.txt --extra embedded --extra dev pyproject.toml \
	  $(addprefix --no-emit-package=,$(TORCH)) -o $(LOCK)
	$(call PICK,quixstreams) | $(COMPILE) $(ARGS) - -o bench/peers/requirements.lock
	$(call PICK,atheris) | $(COMPILE) $(ARGS) - -o tests/fuzz/requirements.lock
	echo 'pip-audit>=2.7,<3' | $(COMPILE) $(ARGS) - -o docs/audit.lock
	$(call PICK,confluent-kafka>|redis) | $(COMPILE) --resolution lowest-direct --no-deps - \
	  -o tests/oldest-clients.lock

clean:           ## remove the environment and caches
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
