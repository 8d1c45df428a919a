"""TRL's `SFTTrainer` with PEFT's LoRA, in fp32, on rows that are token ids already.

Rows come in the order they are given, as in ours; everything else is TRL's own way.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets
import peft
import torch
import transformers
import trl

from benchmarks.serving.engines.runner import answer_commands, peak_rss_mb

__all__ = ["Trl"]

_THREADS = 2


class _Sequential(trl.SFTTrainer):  # type: ignore[misc]
    """Takes rows in order, and notes time, tokens and loss of each step."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.tokens = 0

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, model: Any, inputs: Mapping[str, Any], *rest: Any) -> torch.Tensor:
        mask = inputs.get("attention_mask")
        ids = inputs["input_ids"]
        self.tokens += int(ids.numel() if mask is None else mask.sum())
        loss: torch.Tensor = super().training_step(model, inputs, *rest)
        return loss


class _Clock(transformers.TrainerCallback):  # type: ignore[misc]
    """Notes when each optimizer step ended."""

    def __init__(self) -> None:
        self.trainer: Any = None
        self.marks: list[tuple[float, int]] = []
        self.losses: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.marks.append((time.perf_counter(), self.trainer.tokens))

    def on_log(self, *_: Any, logs: Mapping[str, float] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


class Trl:
    """One setting of the sweep."""

    def load(self, command: Mapping[str, Any]) -> dict[str, Any]:
        start = time.perf_counter()
        torch.set_num_threads(_THREADS)
        self._options = command["options"]
        self._rows = json.loads(Path(self._options["rows"]).read_text())
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            command["model"], dtype=torch.float32
        )
        source = Path(self._options["tokenizer"])
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(
            source.parent, gguf_file=source.name
        )
        form = "packed" if self._options["is_packed"] else "padded"
        return {
            "load_seconds": time.perf_counter() - start,
            "description": f"TRL {trl.__version__}, PEFT {peft.__version__}, transformers "
            f"{transformers.__version__}, torch {torch.__version__}, fp32, {_THREADS} threads, "
            f"batch {self._options['batch']}, {form}",
        }

    def train(self, command: Mapping[str, Any]) -> dict[str, Any]:
        steps = int(command["steps"])
        clock = _Clock()
        trainer = _Sequential(
            model=self._model,
            args=self._arguments(steps),
            train_dataset=datasets.Dataset.from_list(self._rows),
            processing_class=self._tokenizer,
            peft_config=peft.LoraConfig(
                r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"
            ),
            callbacks=[clock],
        )
        clock.trainer = trainer
        trainer.train()
        (first, skipped), (last, tokens) = clock.marks[0], clock.marks[-1]
        return {
            "seconds": last - first,
            "tokens": tokens - skipped,
            "losses": clock.losses,
            "peak_rss_mb": peak_rss_mb(),
        }

    def _arguments(self, steps: int) -> Any:
        options = self._options
        batch, is_packed = options["batch"], options["is_packed"]
        rows_at_once = batch * (options["rows_per_pack"] if is_packed else 1)
        return trl.SFTConfig(
            output_dir=options["folder"],
            max_steps=steps,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=max(1, round(options["rows_per_step"] / rows_at_once)),
            packing=is_packed,
            max_length=options["pack_tokens"],
            learning_rate=options["lr"],
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=1.0,
            activation_checkpointing=False,
            use_cpu=True,
            bf16=False,
            logging_steps=1,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=0,
        )


if __name__ == "__main__":
    engine = Trl()
    answer_commands({"load": engine.load, "train": engine.train})
