# `make run` goes from a bare clone to an assistant in production. `make test` runs all checks.

BIN := .venv/bin
# The marker file of the installation has the lock file's checksum, so that a changed lock file is installed again.
INSTALLED := .venv/installed-$(shell cat requirements.lock pyproject.toml | cksum | cut -d' ' -f1)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-cache-dir
# A stage's command is run by the first `python` on the path.
DVC := PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dvc
FITS := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)

.PHONY: run test docs reference down bench-train bench-serve bench-semantic-cache bench-retrieval bench-assistant bench-guard bench-release

run: $(INSTALLED)
	$(BIN)/graft run

test: lint
	$(BIN)/pytest

.PHONY: format lint

# Rewrites the files; `make lint` only checks them.
format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.test_words

# The documentation site, into build/site; needs no network. Open build/site/index.html, or, for its search,
# http://127.0.0.1:8080 after: .venv/bin/python -m http.server 8080 --bind 127.0.0.1 -d build/site
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# The reference pages that are made from the code; commit them with it.
reference: $(INSTALLED)
	$(BIN)/python -m docs.generators

# Training, compared with TRL's SFTTrainer, which nothing else needs; about half an hour. Results: docs/benchmarks.md.
bench-train: $(INSTALLED)
	$(PIP) -q 'trl==1.16.0'
	test -d build/base || $(DVC) repro base
	$(BIN)/python -m benchmarks.train $(BENCH)

# Serving, compared with llama.cpp's server, whose wheel nothing else needs, and with `transformers serve`.
bench-serve: $(INSTALLED)
	$(PIP) -q 'xllamacpp==2026.10.11549'
	test -d build/package || $(DVC) repro package
	$(BIN)/python -m benchmarks.serve $(BENCH)

# Rate of wrong answers of the semantic cache; a minute.
bench-semantic-cache: $(INSTALLED)
	test -d build/embedding || $(DVC) repro embedding
	$(BIN)/python -m benchmarks.semantic_cache

# Recall of vector, keyword and hybrid search, on the project's own questions and on Debian's package of Python's FAQ.
bench-retrieval: $(INSTALLED)
	test -d build/index || $(DVC) repro index
	$(BIN)/python -m benchmarks.retrieval
	$(BIN)/python -m benchmarks.retrieval_python_faq

# End-to-end evaluation on the held-out test split and the attacks, and the app's own latency; ten minutes on two cores.
bench-assistant: $(INSTALLED)
	test -d build/evaluate_assistant || $(DVC) repro evaluate_assistant
	$(BIN)/python -m benchmarks.assistant $(BENCH)

# Error rates and sample sizes of canary analysis, by simulation; a minute or two.
bench-guard: $(INSTALLED)
	$(BIN)/python -m benchmarks.canary_analysis

# Error rates of the gate (by simulation), and load and kill -9 in every phase of a release; an hour.
bench-release: $(INSTALLED)
	$(BIN)/python -m benchmarks.release

down:
	$(BIN)/graft down

$(INSTALLED):
	@test -n '$(PYTHON)' && '$(PYTHON)' -c '$(FITS)' || \
		{ echo 'error: Graft needs Python 3.11 to 3.13; say where: make PYTHON=/path/to/python3.11' >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	rm -f .venv/installed-*
	touch $@
