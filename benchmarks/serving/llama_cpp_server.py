"""llama.cpp's server on a GGUF file until SIGTERM, from the wheel `xllamacpp`.

python -m benchmarks.serving.llama_cpp_server MODEL.gguf PORT THREADS SLOTS
"""

from __future__ import annotations

import signal
import sys

import xllamacpp

CONTEXT = 1024
"""Maximum tokens of a prompt and its answer."""


def main() -> None:
    model, port, threads, slots = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = CONTEXT * int(slots)
    params.n_parallel = int(slots)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.verbosity = 0
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
