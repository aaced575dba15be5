# The commands we keep; each sets up .venv first, and setting up is skipped when nothing changed.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo serve test test-fast lint lock clean

setup:
	@$(PYTHON) tools/setup.py

demo: setup
	@$(BIN)/capo demo

serve: setup
	@$(BIN)/capo serve

test: test-fast
	$(BIN)/pytest tests/integration

test-fast: lint
	$(BIN)/pytest tests/unit tests/property tests/contract

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench-%: setup
	$(BIN)/python bench/$*.py

lock:
	$(PYTHON) tools/lock.py

clean:
	rm -rf .venv build
