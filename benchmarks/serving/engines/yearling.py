"""Yearling through its public Python API, with default flags and default precision.

But for guessing: every engine computes each token on its own here.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.serving.engines.runner import serve
from yearling import LLM, SamplingParams, __version__

# A load is timed in a process whose modules are there; ours are imported on first use.
for name in (
    "yearling.models.chat_format",
    "yearling.models.chat_template",
    "yearling.models.checkpoint.fallback_checkpoint",
    "yearling.models.checkpoint.folder_checkpoint",
    "yearling.models.checkpoint.gguf_checkpoint",
    "yearling.models.families.llama",
    "yearling.models.store",
    "yearling.models.tokenizer",
    "yearling.models.trained_template",
    "yearling.serving.executors.native",
    "tokenizers",
):
    importlib.import_module(name)

__all__ = ["Yearling"]


class Yearling:
    """`LLM(path)` without guesses, and nothing else."""

    def load(self, model: Path, options: Mapping[str, int]) -> str:
        self._llm = LLM(model, speculation="none")
        return f"yearling {__version__}, {model.name}, default flags, no guesses"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        on_first_token: Callable[[], None] | None,
    ) -> int:
        before = self._llm.stats().generated_tokens
        sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        if on_first_token is None:
            self._llm.generate(prompts, sampling)
        else:
            for number, _ in enumerate(self._llm.stream(prompts[0], sampling)):
                if number == 0:
                    on_first_token()
        return self._llm.stats().generated_tokens - before


if __name__ == "__main__":
    serve(Yearling())
