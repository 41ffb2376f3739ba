# Everything from a fresh machine with python3 and make. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
ARGS ?=
PEERS := build/peers
PEERS_INSTALLED := $(PEERS)/.installed
FUZZ := build/fuzz
FUZZ_INSTALLED := $(FUZZ)/.installed
AUDIT := build/audit
AUDIT_INSTALLED := $(AUDIT)/.installed

.PHONY: help demo test faults soak lint format bench-drift bench-peers bench-replay bench-http fuzz audit bill \
	screenshots generated clean
help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "nextclick needs Python 3.11 or newer; try: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,dev]'
	@touch $@

demo: $(INSTALLED)   ## run everything embedded; options by ARGS="--seconds 60"
	@$(BIN)/nextclick demo $(ARGS)

test: $(INSTALLED)   ## run the tests, two files at a time; options by ARGS="-k worker"
	@$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

faults: $(INSTALLED) ## break everything at length; a line a fault
	@$(BIN)/pytest tests/faults --long $(ARGS)

soak: $(INSTALLED)   ## clicks for a long time; ARGS="--soak 30" minutes
	@$(BIN)/pytest tests/faults/test_load.py -k soak --long --soak 10 $(ARGS)

lint: $(INSTALLED)   ## ruff, mypy --strict, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## rewrite the code as ruff likes it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-drift: $(INSTALLED) ## twelve retrains while missions come and go; ARGS="--png drift.png"
	@$(BIN)/python -m bench.drift $(ARGS)

bench-http: $(INSTALLED) ## the HTTP service under hey, on one core
	@$(BIN)/python -m bench.http $(ARGS)

bench-replay: $(INSTALLED) ## a real log: replay, train, serve, hits; FILE=clicks.csv
	@$(BIN)/python -m bench.replay $(FILE) $(ARGS)

# An environment of its own: quixstreams wants an older librdkafka and pydantic than ours.
$(PEERS_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[peers]'
	@touch $@

bench-peers: $(INSTALLED) $(PEERS_INSTALLED) ## our worker beside one written with Quix Streams
	@$(BIN)/nextclick bench peers --python $(PEERS)/bin/python $(ARGS)

# Environments of their own: neither belongs to what runs or tests a shop.
$(FUZZ_INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(FUZZ)
	$(FUZZ)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[fuzz]'
	@touch $@

fuzz: $(FUZZ_INSTALLED) ## hostile clicks for the decoder; ARGS="--seconds 600", Linux
	@$(FUZZ)/bin/python -m tests.fuzz $(ARGS)

$(AUDIT_INSTALLED):
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet --disable-pip-version-check 'pip-audit>=2.7,<3'
	@touch $@

# --strict: what could not be looked up is a failure, not a pass.
audit: $(INSTALLED) $(AUDIT_INSTALLED) ## known holes in what the services load; asks PyPI
	@$(BIN)/python docs/make_bill.py --pins > $(AUDIT)/pins.txt
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps -r $(AUDIT)/pins.txt $(ARGS)

bill: $(INSTALLED)   ## write docs/bill-of-materials.md from what is installed
	@mkdir -p build
	@$(BIN)/python docs/make_bill.py > build/bill.md && mv build/bill.md docs/bill-of-materials.md

screenshots: $(INSTALLED) ## write docs/page-*.png from a demo; needs chromium
	@$(BIN)/python docs/make_screenshots.py

generated: $(INSTALLED) ## write what is made from code: settings, schemas, AsyncAPI, dashboard
	@mkdir -p build
	@$(BIN)/python docs/make_configuration.py > build/page.md && mv build/page.md docs/configuration.md
	@$(BIN)/python docs/make_contracts.py
	@$(BIN)/python -m deploy.make_dashboard > build/board.json && mv build/board.json deploy/grafana/dashboards/nextclick.json

clean:           ## remove the environment and caches
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
