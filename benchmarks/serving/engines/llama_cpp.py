"""llama.cpp through `xllamacpp`: its own server loop with slots, called in-process.

Calling the server object skips HTTP and JSON framing, so this is the fastest honest way in.
No one configuration is its best. With one cache unified over 32 slots every stream's attention
scans the cells of all; with a cache split into slots that hold a long prompt 1.2 GB are touched.
So it runs twice: one slot with a long context, and 32 split slots with a short one.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import xllamacpp

from benchmarks.serving.engines.runner import serve

__all__ = ["LlamaCpp"]

_THREADS = 2


class LlamaCpp:
    """Split cache, flash attention (faster here in prefill and streams), two threads."""

    def load(self, model: Path, options: Mapping[str, int]) -> str:
        slots, slot_tokens = options["slots"], options["slot_tokens"]
        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(model)
        parameters.n_parallel = slots
        parameters.n_ctx = slots * slot_tokens
        parameters.kv_unified = False
        parameters.cont_batching = True
        # Slots keep their last prompt; copies of idle slots in RAM would only cost time here.
        parameters.cache_ram_mib = 0
        parameters.cpuparams.n_threads = _THREADS
        parameters.cpuparams_batch.n_threads = _THREADS
        parameters.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
        parameters.verbosity = 0
        self._server = xllamacpp.Server(parameters)
        return (
            f"xllamacpp {xllamacpp.__version__}, {model.name}, slots: {slots}, tokens a slot: "
            f"{slot_tokens}, flash attention"
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        on_first_token: Callable[[], None] | None,
    ) -> int:
        counts = [0] * len(prompts)

        def run(index: int) -> None:
            counts[index] = self._complete(prompts[index], new_tokens, on_first_token)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(1, len(prompts))]
        for thread in threads:
            thread.start()
        run(0)
        for thread in threads:
            thread.join()
        return sum(counts)

    def _complete(
        self, prompt: Sequence[int], new_tokens: int, on_first_token: Callable[[], None] | None
    ) -> int:
        request = {
            "prompt": list(prompt),
            "n_predict": new_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "cache_prompt": True,
        }
        if on_first_token is None:
            return _completion_tokens(self._server.handle_completions(request))
        last: dict[str, Any] = {}

        def on_chunk(chunk: dict[str, Any]) -> bool:
            if not last:
                on_first_token()
            last.update(chunk)
            return False

        self._server.handle_completions({**request, "stream": True}, on_chunk)
        return _completion_tokens(last)


def _completion_tokens(answer: dict[str, Any]) -> int:
    if "usage" not in answer:
        raise RuntimeError(f"llama.cpp answered {answer}")
    return int(answer["usage"]["completion_tokens"])


if __name__ == "__main__":
    serve(LlamaCpp())
