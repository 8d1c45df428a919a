"""Yearling through its public Python API; all prompts at once, since company changes no answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.conversion.engines.runner import serve
from yearling import LLM, SamplingParams, __version__
from yearling.models.checkpoint import open_checkpoint

__all__ = ["Yearling"]


class Yearling:
    """`LLM(path)`, or `LLM(path, weights="float32")` with the option `is_float32`."""

    def load(self, model: Path, options: Mapping[str, int]) -> str:
        weights = "float32" if options.get("is_float32") else "auto"
        self._llm = LLM(model, weights=weights)
        self._eos_token_ids = open_checkpoint(model).eos_token_ids
        return f"yearling {__version__}, weights={weights}"

    def answer(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=new_tokens,
            # Every answer has as many tokens.
            logit_bias=dict.fromkeys(self._eos_token_ids, -100.0),
        )
        return [list(result.tokens) for result in self._llm.generate(prompts, sampling)]


if __name__ == "__main__":
    serve(Yearling())
