# Everything that is done in this checkout. `make` alone tells what there is.
# The first run installs what it needs into .venv (and .venv-clients, tests/clients/js/node_modules).

SHELL := /bin/sh
BIN := .venv/bin
SOURCES := realtime sdk tests benchmarks fuzzing scripts
# Two at a time: the tests wait for Postgres more than they compute.
PYTEST_ARGS ?= -n 2

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_REQUIRE_VIRTUALENV := 1
PROJECTS := pyproject.toml sdk/pyproject.toml realtime/rowcast/__init__.py sdk/rowcast_client/__init__.py

.PHONY: help demo dev chat cursors presence messages test bench chaos fuzz docs lint types format setup clients pins clean
.DEFAULT_GOAL := help

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z -]+:.*## / { printf "  make %-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(BIN)/.run ## show live changes: a Postgres, the server, a writer and a subscriber
	@$(BIN)/rowcast demo $(ARGS)

dev: $(BIN)/.run ## keep a Postgres and the server running, with data that stays
	@$(BIN)/rowcast dev $(ARGS)

chat cursors presence: $(BIN)/.run ## an example in the browser and the terminal: see examples/
	@$(BIN)/rowcast dev --example examples/$@ $(ARGS)

messages: $(BIN)/.run ## the same for messages that only one user can read
	@$(BIN)/rowcast dev --example examples/$@ --user ann --user ben $(ARGS)

test: lint types clients ## everything: lint, types, then all tests
	$(BIN)/pytest $(PYTEST_ARGS)

bench: $(BIN)/.dev ## measure, beside a reference in the same run: all, or by name: ARGS="replay recovery"
	@$(BIN)/python -m benchmarks $(ARGS)

chaos: $(BIN)/.dev ## break everything for a minute, and count what was lost: ARGS="--seed 7 --seconds 60 --faults all"
	@PYTHONPATH=tests $(BIN)/python -m chaos $(ARGS)

fuzz: build/fuzzing/.venv/.done ## feed parsers what breaks them, guided by coverage: see fuzzing/README.md
	@PYTHONPATH=realtime nice -n 19 build/fuzzing/.venv/bin/python -m fuzzing $(ARGS)

docs: $(BIN)/.dev ## write docs/settings.md and docs/cli.md from the code
	$(BIN)/python scripts/docs.py

lint: $(BIN)/.dev ## ruff, and which module may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(BIN)/.dev
	$(BIN)/mypy --strict $(SOURCES)

format: $(BIN)/.dev ## put the sources into shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

setup: $(BIN)/.dev clients ## install everything that the targets above need

clients: .venv-clients/.done tests/clients/js/node_modules/.done

pins: ## write requirements/*.txt anew, with the newest releases
	scripts/pins

clean: ## delete what was installed and built here
	rm -rf .venv .venv-clients tests/clients/js/node_modules benchmarks/peers/node_modules build dist .*_cache .hypothesis

# --no-build-isolation: the build backend is pinned too, and comes with the requirements.
$(BIN)/.run: requirements/run.txt $(PROJECTS)
	@python=$$(scripts/find-python) && { [ -x $(BIN)/python ] || "$$python" -m venv .venv; }
	@echo "Installing what Rowcast needs into .venv (half a minute the first time)"
	@$(BIN)/pip install -r requirements/run.txt
	@$(BIN)/pip install --quiet --no-deps --no-build-isolation -e ./sdk -e .
	@touch $@

$(BIN)/.dev: requirements/dev.txt $(BIN)/.run
	@echo "Installing what the tests need into .venv (a minute the first time)"
	@$(BIN)/pip install -r requirements/dev.txt
	@touch $@

# The official Python client asks for an older websockets than we use: it lives apart.
.venv-clients/.done: requirements/clients.txt
	@python=$$(scripts/find-python) && "$$python" -m venv --clear .venv-clients
	@echo "Installing the official Python client into .venv-clients"
	@.venv-clients/bin/pip install -r requirements/clients.txt
	@touch $@

# atheris is not for every Python, and the tests do not need it: it lives apart as well.
build/fuzzing/.venv/.done: requirements/run.txt pyproject.toml
	@python=$$(scripts/find-python) && "$$python" -m venv --clear build/fuzzing/.venv
	@echo "Installing the fuzzer into build/fuzzing/.venv"
	@build/fuzzing/.venv/bin/pip install --quiet --upgrade pip
	@build/fuzzing/.venv/bin/pip install --quiet -r requirements/run.txt --group fuzz
	@touch $@

# Node comes from a wheel too: the newest client needs a newer one than many machines have.
tests/clients/js/node_modules/.done: tests/clients/js/package-lock.json $(BIN)/.dev
	@echo "Installing the official JavaScript clients into tests/clients/js/node_modules"
	@cd tests/clients/js && ../../../$(BIN)/python ../../../scripts/npm.py ci --loglevel=error
	@touch $@
