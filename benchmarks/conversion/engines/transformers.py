"""transformers `generate` in fp32: a folder as it is, a GGUF file through its own reader.

All prompts are one batch, padded on the left: padding changes rounding, but in the same way each
time.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from benchmarks.conversion.engines.runner import serve

__all__ = ["Transformers"]

_THREADS = 2


class Transformers:
    """Scaled-dot-product attention, dynamic cache, one padded batch."""

    def load(self, model: Path, options: Mapping[str, int]) -> str:
        torch.set_num_threads(_THREADS)
        source: dict[str, Any] = {"pretrained_model_name_or_path": model}
        if model.is_file():
            source = {"pretrained_model_name_or_path": model.parent, "gguf_file": model.name}
        self._model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            **source, dtype=torch.float32, attn_implementation="sdpa"
        )
        self._model.train(False)
        # The model's own end-of-text ids are dropped: every answer has as many tokens.
        self._model.generation_config.eos_token_id = None
        return f"transformers {transformers.__version__}, torch {torch.__version__}, fp32, sdpa"

    def answer(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
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
            )
        answers: list[list[int]] = output[:, width:].tolist()
        return answers


if __name__ == "__main__":
    serve(Transformers())
