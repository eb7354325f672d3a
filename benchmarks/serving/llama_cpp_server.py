"""llama.cpp's server on a GGUF file until SIGTERM, from the wheel `xllamacpp`.

python -m benchmarks.serving.llama_cpp_server MODEL.gguf PORT THREADS PLACES
"""

from __future__ import annotations

import signal
import sys

import xllamacpp

CONTEXT = 1024
"""Tokens of a prompt and its answer."""


def main() -> None:
    model, port, threads, places = sys.argv[1:]
    told = xllamacpp.CommonParams()
    told.model.path = model
    told.n_ctx = CONTEXT * int(places)
    told.n_parallel = int(places)
    told.cpuparams.n_threads = told.cpuparams_batch.n_threads = int(threads)
    told.hostnames = ["127.0.0.1"]
    told.port = int(port)
    told.verbosity = 0
    server = xllamacpp.Server(told)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
