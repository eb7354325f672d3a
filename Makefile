# `make run` goes from a bare clone to an assistant in production. `make test` runs all checks.

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --no-cache-dir
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
INSTALL = '$(PYTHON)' -m install.install

.PHONY: run test down lock python runtime dev
.PHONY: bench-train bench-serve bench-semantic-cache bench-retrieval bench-assistant bench-guard bench-release

run: runtime
	$(BIN)/python -m flows.cli run

test: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

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
	test -d build/base || $(BIN)/dvc repro base
	$(BIN)/python -m benchmarks.train $(BENCH)

# Serving, compared with llama.cpp's server, whose wheel nothing else needs, and with `transformers serve`.
bench-serve: dev
	$(PIP) -q 'xllamacpp==2026.10.11549'
	test -d build/package || $(BIN)/dvc repro package
	$(BIN)/python -m benchmarks.serve $(BENCH)

# Rate of wrong answers of the semantic cache; a minute.
bench-semantic-cache: dev
	test -d build/embedding || $(BIN)/dvc repro embedding
	$(BIN)/python -m benchmarks.semantic_cache

# Recall of vector, keyword and hybrid search, on the project's own questions and on Debian's package of Python's FAQ.
bench-retrieval: dev
	test -d build/index || $(BIN)/dvc repro index
	$(BIN)/python -m benchmarks.retrieval
	$(BIN)/python -m benchmarks.retrieval_python_faq

# End-to-end evaluation on the held-out test split and the attacks, and the app's own latency; ten minutes on two cores.
bench-assistant: dev
	test -d build/evaluate_assistant || $(BIN)/dvc repro evaluate_assistant
	$(BIN)/python -m benchmarks.assistant $(BENCH)

# Error rates and sample sizes of canary analysis, by simulation; a minute or two.
bench-guard: dev
	$(BIN)/python -m benchmarks.canary_analysis

# Error rates of the gate (by simulation), and load and kill -9 in every phase of a release; an hour.
bench-release: dev
	$(BIN)/python -m benchmarks.release

down:
	$(BIN)/python -m flows.cli down
