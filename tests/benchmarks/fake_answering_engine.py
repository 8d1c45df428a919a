"""An engine process that counts on from a prompt's last token.

`python -m tests.benchmarks.fake_answering_engine`; the model `wrong-3` changes the token at
position 3 of every answer to a prompt of more than two tokens, `short` makes a token too few.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.conversion.engines.runner import serve


class FakeAnsweringEngine:
    def load(self, model: Path, options: Mapping[str, int]) -> str:
        self._kind, _, position = model.name.partition("-")
        self._position = int(position or 0)
        return f"fake {model.name}"

    def answer(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        return [self._continue(prompt, new_tokens) for prompt in prompts]

    def _continue(self, prompt: Sequence[int], new_tokens: int) -> list[int]:
        answer = [prompt[-1] + step for step in range(1, new_tokens + 1)]
        if self._kind == "wrong" and len(prompt) > 2:
            answer[self._position] = 0
        return answer[:-1] if self._kind == "short" else answer


if __name__ == "__main__":
    serve(FakeAnsweringEngine())
