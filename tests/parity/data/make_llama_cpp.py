"""Writes llama_cpp.json: what llama.cpp makes of every tiny GGUF file of `gguf_files`.

Run in an environment with `xllamacpp`, from the root of the repository:

    PYTHONPATH=src:. python tests/parity/data/make_llama_cpp.py

The tests only read the result: for each file and prompt, the log-probability of every token
that may follow.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import xllamacpp

from tests.parity.gguf_files import GGUF_CASES, PROMPTS, VOCABULARY, write_case

_TARGET = Path(__file__).parent / "llama_cpp.json"


def _server(path: Path) -> Any:
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = 64
    parameters.n_parallel = 1
    parameters.warmup = False
    parameters.cache_ram_mib = 0
    parameters.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    parameters.cpuparams.n_threads = 1
    parameters.cpuparams_batch.n_threads = 1
    parameters.verbosity = 0
    return xllamacpp.Server(parameters)


def _logprobs(server: Any, prompt: list[int]) -> list[float]:
    request = {"prompt": prompt, "max_tokens": 1, "logprobs": VOCABULARY, "cache_prompt": False}
    answer = server.handle_completions(request)
    top = answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"]
    found = {entry["id"]: entry["logprob"] for entry in top}
    return [round(found[token], 5) for token in range(VOCABULARY)]


def main() -> None:
    """Ask about the files named on the command line, or about all."""
    names = sys.argv[1:] or list(GGUF_CASES)
    answers = json.loads(_TARGET.read_text()) if _TARGET.exists() else {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.gguf"
            write_case(path, GGUF_CASES[name])
            server = _server(path)
            answers[name] = [_logprobs(server, list(prompt)) for prompt in PROMPTS]
    lines = [f'"{name}": {json.dumps(answers[name])}' for name in sorted(answers)]
    _TARGET.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
