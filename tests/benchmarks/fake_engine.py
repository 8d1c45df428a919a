"""An engine process that makes nothing, at a speed its model file's name says.

`python -m tests.benchmarks.fake_engine`; the model `slow-0.02` takes 20 ms per call, `broken`
fails to load, `dies` exits in the first call, `short` makes a token too few.
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.serving.engines.runner import serve


class FakeEngine:
    def load(self, model: Path, options: Mapping[str, int]) -> str:
        print("a library that prints to stdout")
        if model.name == "broken":
            raise ValueError("this model is broken")
        self._name = model.name
        self._seconds = float(model.name.partition("-")[2] or 0)
        self._calls = 0
        return f"fake {model.name}"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        on_first_token: Callable[[], None] | None,
    ) -> int:
        self._calls += 1
        if self._name == "dies" and self._calls == 2:
            print("the last words", file=sys.stderr)
            sys.exit(3)
        if self._name == "silent" and self._calls == 2:
            time.sleep(60)
        if on_first_token is not None:
            on_first_token()
        time.sleep(self._seconds)
        return len(prompts) * new_tokens - (self._name == "short")


if __name__ == "__main__":
    serve(FakeEngine())
