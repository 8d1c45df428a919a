"""Yearling through its public Python API, with default flags and default precision."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.serving.engines.runner import serve

if TYPE_CHECKING:
    from yearling import SamplingParams

__all__ = ["Yearling"]


class Yearling:
    """`LLM(path)` and nothing else."""

    def load(self, model: Path) -> str:
        import yearling

        self._llm = yearling.LLM(model)
        self._eos_token_ids = self._llm.eos_token_ids
        return f"yearling {yearling.__version__}, {model.name}, default flags"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        on_first_token: Callable[[], None] | None,
    ) -> int:
        sampling = self._sampling(new_tokens)
        if on_first_token is None:
            answers = self._llm.generate(prompts, sampling)
            return sum(len(answer.tokens) for answer in answers)
        count = 0
        for piece in self._llm.stream(prompts[0], sampling):
            if count == 0 and piece.tokens:
                on_first_token()
            count += len(piece.tokens)
        return count

    def _sampling(self, new_tokens: int) -> "SamplingParams":
        """Greedy, and never at an end: the model's end-of-text ids are biased away."""
        from yearling import SamplingParams

        return SamplingParams(
            temperature=0.0,
            max_tokens=new_tokens,
            logit_bias=dict.fromkeys(self._eos_token_ids, -100.0),
        )


if __name__ == "__main__":
    serve(Yearling())
