# `make run` goes from a bare clone to an assistant in production. `make test` runs all checks.

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-cache-dir
# A stage's command is run by the first `python` on the path.
DVC := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m dvc
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13) or 't' in sys.abiflags \
	or sys.implementation.name != 'cpython')
ifndef PYTHON
PYTHON := $(shell for p in python3.11 python3.12 python3.13 python3 $(BIN)/python; do \
	$$p -c "$(FITS)" 2>/dev/null && echo $$p && break; done)
endif
COMMA := ,
# Loopback is reached without a proxy. No client here can use a SOCKS proxy, and some do not start with one.
export NO_PROXY := 127.0.0.1,localhost,::1$(addprefix $(COMMA),$(NO_PROXY))
export no_proxy := $(NO_PROXY)
$(foreach name,ALL_PROXY all_proxy,$(if $(findstring socks,$($(name))),$(eval unexport $(name))))
# The stages, flows and replicas of a release are a hundred processes, which would compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = '$(PYTHON)' -m install.install

.PHONY: run test test-fast test-tutorials lint format docs reference down lock python runtime dev
.PHONY: bench-train bench-serve bench-semantic-cache bench-retrieval bench-assistant bench-guard bench-release

run: runtime
	$(BIN)/python -m flows.cli run

# The number of processes that run tests; each takes up to 2 GB of memory.
WORKERS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS)

test: lint
	$(PYTEST)

# The inner loop: starts no server and trains no model.
test-fast: lint
	$(PYTEST) -m "not slow and not faults and not tutorials"

# The tutorial on own data, with a Prefect server and a Ray of its own; the other two are part of `make test`.
test-tutorials: dev
	$(BIN)/python -m pytest -m tutorials

# Rewrites the files; `make lint` only checks them.
format: dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.test_words

# The documentation site, into build/site; needs no network. Open build/site/index.html, or, for its search,
# http://127.0.0.1:8080 after: .venv/bin/python -m http.server 8080 --bind 127.0.0.1 -d build/site
docs: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The reference pages that are made from the code; commit them with it.
reference: dev
	$(BIN)/python -m docs.generators

# Installation: .venv has what the locks say (install/); nothing is done where it has.
runtime: python
	@$(INSTALL) requirements.lock

dev: python
	@$(INSTALL) requirements-dev.lock

python:
	@test -n '$(PYTHON)' && '$(PYTHON)' -c "$(FITS)" 2>/dev/null || \
		{ echo 'error: Graft needs Python 3.11 to 3.13; say where: make PYTHON=/path/to/python3.11' >&2; exit 1; }

# All locks from pyproject.toml; versions stay, as far as it allows them, except with `make lock UPGRADE=--upgrade`.
lock: python
	@tools=$$(mktemp -d) && trap 'rm -rf "$$tools"' EXIT && '$(PYTHON)' -m venv "$$tools" && \
		"$$tools/bin/python" -m pip --disable-pip-version-check install -q uv==0.13.9 packaging==26.3 && \
		"$$tools/bin/python" -m install.write_locks $(UPGRADE)

# Training, compared with TRL's SFTTrainer, which nothing else needs; about half an hour. Results: docs/benchmarks.md.
bench-train: dev
	$(PIP) -q 'trl==1.16.0'
	test -d build/base || $(DVC) repro base
	$(BIN)/python -m benchmarks.train $(BENCH)

# Serving, compared with llama.cpp's server, whose wheel nothing else needs, and with `transformers serve`.
bench-serve: dev
	$(PIP) -q 'xllamacpp==2026.10.11549'
	test -d build/package || $(DVC) repro package
	$(BIN)/python -m benchmarks.serve $(BENCH)

# Rate of wrong answers of the semantic cache; a minute.
bench-semantic-cache: dev
	test -d build/embedding || $(DVC) repro embedding
	$(BIN)/python -m benchmarks.semantic_cache

# Recall of vector, keyword and hybrid search, on the project's own questions and on Debian's package of Python's FAQ.
bench-retrieval: dev
	test -d build/index || $(DVC) repro index
	$(BIN)/python -m benchmarks.retrieval
	$(BIN)/python -m benchmarks.retrieval_python_faq

# End-to-end evaluation on the held-out test split and the attacks, and the app's own latency; ten minutes on two cores.
bench-assistant: dev
	test -d build/evaluate_assistant || $(DVC) repro evaluate_assistant
	$(BIN)/python -m benchmarks.assistant $(BENCH)

# Error rates and sample sizes of canary analysis, by simulation; a minute or two.
bench-guard: dev
	$(BIN)/python -m benchmarks.canary_analysis

# Error rates of the gate (by simulation), and load and kill -9 in every phase of a release; an hour.
bench-release: dev
	$(BIN)/python -m benchmarks.release

down:
	$(BIN)/python -m flows.cli down
