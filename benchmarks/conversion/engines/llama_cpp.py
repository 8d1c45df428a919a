"""llama.cpp through `xllamacpp`: its own server loop, called in-process, one prompt at a time.

With several slots the arrival of requests decides which of them share a batch, and with it how
sums are rounded; one slot always computes the same. One thread, because its threads wait for each
other by spinning: with a core taken by another process two are far slower than one.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xllamacpp

from benchmarks.conversion.engines.runner import serve

__all__ = ["LlamaCpp"]

_CONTEXT_TOKENS = 2048


class LlamaCpp:
    """One slot, one thread, no reuse of the last prompt."""

    def load(self, model: Path, options: Mapping[str, int]) -> str:
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(model)
        parameters.n_parallel = 1
        parameters.n_ctx = _CONTEXT_TOKENS
        parameters.cache_ram_mib = 0
        parameters.cpuparams.n_threads = 1
        parameters.cpuparams_batch.n_threads = 1
        parameters.verbosity = 0
        self._server = xllamacpp.Server(parameters)
        return f"xllamacpp {xllamacpp.__version__}, one slot, one thread"

    def answer(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        return [self._complete(prompt, new_tokens) for prompt in prompts]

    def _complete(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        answer: dict[str, Any] = self._server.handle_completions(
            {
                "prompt": list(prompt),
                "n_predict": new_tokens,
                "temperature": 0,
                "ignore_eos": True,
                "cache_prompt": False,
                # The only place of this route that carries token ids.
                "logprobs": 1,
            }
        )
        if "usage" not in answer:
            raise RuntimeError(f"llama.cpp answered {answer}")
        if (read := answer["usage"]["prompt_tokens"]) != len(prompt):
            raise RuntimeError(f"llama.cpp read {read} tokens of a prompt of {len(prompt)}")
        return [int(token["id"]) for token in answer["choices"][0]["logprobs"]["content"]]


if __name__ == "__main__":
    serve(LlamaCpp())
