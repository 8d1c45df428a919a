"""transformers `generate` in fp32 over the de-quantised weights; static batches.

`generate` keeps no cache between calls, so a shared prefix is computed anew each time.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
import transformers.models.llama.modeling_llama  # a load is timed in a process whose code is there
from transformers.generation.streamers import BaseStreamer

from benchmarks.serving.engines.runner import serve

__all__ = ["Transformers"]

_THREADS = 2


class _FirstToken(BaseStreamer):
    """Reports the first new token; `generate` hands the prompt over first."""

    def __init__(self, on_first_token: Callable[[], None]) -> None:
        self._on_first_token = on_first_token
        self._calls = 0

    def put(self, value: torch.Tensor) -> None:
        self._calls += 1
        if self._calls == 2:
            self._on_first_token()

    def end(self) -> None:
        pass


class Transformers:
    """Scaled-dot-product attention, dynamic cache, one padded batch per call."""

    def load(self, model: Path, options: Mapping[str, int]) -> str:
        torch.set_num_threads(_THREADS)
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, attn_implementation="sdpa"
        )
        self._model.train(False)
        # The model's own end-of-text ids are dropped: every engine makes as many tokens.
        self._model.generation_config.eos_token_id = None
        return f"transformers {transformers.__version__}, torch {torch.__version__}, fp32, sdpa"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        on_first_token: Callable[[], None] | None,
    ) -> int:
        width = max(map(len, prompts))
        pads = [width - len(prompt) for prompt in prompts]
        ids = torch.tensor([[0] * pad + list(p) for pad, p in zip(pads, prompts, strict=True)])
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads])
        with torch.inference_mode():
            output = self._model.generate(
                ids,
                attention_mask=mask,
                max_new_tokens=new_tokens,
                do_sample=False,
                pad_token_id=0,
                streamer=_FirstToken(on_first_token) if on_first_token else None,
            )
        return int(output.shape[1] - width) * len(prompts)


if __name__ == "__main__":
    serve(Transformers())
