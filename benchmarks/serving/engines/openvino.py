"""OpenVINO GenAI: the continuous-batching pipeline reads the GGUF itself."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from benchmarks.serving.engines.runner import serve

__all__ = ["OpenVino"]

# A load is timed in a process whose code is there: this opens the library's plugin.
openvino.Core().get_property("CPU", "FULL_DEVICE_NAME")

_CACHE_GIGABYTES = 1
_STEP_TOKENS = 1024


class OpenVino:
    """Paged cache of 1 GB, prefix caching and split-fuse on, its default cache precision."""

    def load(self, model: Path, options: Mapping[str, int]) -> str:
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = _CACHE_GIGABYTES
        scheduler.max_num_batched_tokens = _STEP_TOKENS
        scheduler.max_num_seqs = 128
        scheduler.dynamic_split_fuse = True
        scheduler.enable_prefix_caching = True
        self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU")
        self._next_id = 0
        return (
            f"openvino-genai {openvino_genai.__version__}, {model.name}, continuous batching, "
            f"{_STEP_TOKENS} tokens a step, prefix caching"
        )

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        on_first_token: Callable[[], None] | None,
    ) -> int:
        handles = [self._add(prompt, new_tokens) for prompt in prompts]
        count = 0
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for handle in handles:
                if not handle.can_read():
                    continue
                if on_first_token is not None and count == 0:
                    on_first_token()
                count += sum(len(output.generated_ids) for output in handle.read().values())
        return count

    def _add(self, prompt: Sequence[int], new_tokens: int) -> Any:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens = new_tokens
        config.ignore_eos = True
        config.do_sample = False
        config.apply_chat_template = False
        self._next_id += 1
        ids = openvino.Tensor(np.array([prompt], dtype=np.int64))
        return self._pipeline.add_request(self._next_id, ids, config)


if __name__ == "__main__":
    serve(OpenVino())
