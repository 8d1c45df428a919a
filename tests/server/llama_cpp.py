"""A real llama.cpp server, for what the server passes on: `python -m tests.server.llama_cpp FILE`.

Prints its address and serves until its input ends.
"""

import sys

import xllamacpp


def main(path: str) -> None:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.model_alias = {"elsewhere"}
    parameters.n_parallel = 2
    parameters.n_ctx = 1024
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = 0
    parameters.api_keys = ["sk-backend"]
    parameters.verbosity = 0
    server = xllamacpp.Server(parameters)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1])
