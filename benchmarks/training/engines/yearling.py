"""Ours: `Trainer` as `yearling train` runs it, from rows of text to a written adapter."""

import json
import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import yearling
from benchmarks.serving.engines.runner import answer_commands, peak_rss_mb
from yearling.data.render import Renderer
from yearling.models.torch_decoder import NO_LABEL
from yearling.training.config import TrainConfig
from yearling.training.dataset import prepare_data
from yearling.training.metrics import METRICS_FILE, read_metrics
from yearling.training.ranks import ALONE
from yearling.training.trainer import Trainer

__all__ = ["Yearling"]

_THREADS = 2


class Yearling:
    """`yearling train` in this process."""

    def load(self, command: Mapping[str, Any]) -> dict[str, Any]:
        self._model, self._options = command["model"], command["options"]
        return {
            "load_seconds": 0.0,
            "description": f"yearling {yearling.__version__}, torch {torch.__version__}, fp32, "
            f"{_THREADS} threads, {self._options['micro_batch_tokens']} tokens at once",
        }

    def encode(self, command: Mapping[str, Any]) -> dict[str, Any]:
        """Write the rows as token ids, in the order in which steps take them."""
        config = self._config(steps=1)
        source = prepare_data(config, Renderer.open(self._model), ALONE).source
        rows: list[dict[str, list[int]]] = []
        while len(rows) < self._count():
            for batch in source.next_step():
                for segment in batch.segments:
                    ids = batch.tokens[segment.rows].tolist()
                    following = batch.labels[segment.rows].tolist()
                    rows.append({"input_ids": ids, "labels": [NO_LABEL, *following[:-1]]})
        Path(command["file"]).write_text(json.dumps(rows))
        return {"mean_tokens": statistics.mean(len(row["input_ids"]) for row in rows)}

    def train(self, command: Mapping[str, Any]) -> dict[str, Any]:
        config = self._config(command["steps"])
        shutil.rmtree(config.output, ignore_errors=True)
        Trainer(config).train()
        figures = read_metrics(config.output / METRICS_FILE)
        return {
            "seconds": figures[-1]["seconds"] - figures[0]["seconds"],
            "tokens": figures[-1]["tokens"] - figures[0]["tokens"],
            "losses": [step["loss"] for step in figures],
            "peak_rss_mb": peak_rss_mb(),
        }

    def _count(self) -> int:
        lines = Path(self._options["rows"]).read_text(encoding="utf-8").splitlines()
        return len(lines) - len(lines) % int(self._options["rows_per_step"])

    def _config(self, steps: int) -> TrainConfig:
        options = self._options
        return TrainConfig.model_validate(
            {
                "model": self._model,
                "data": options["rows"],
                "output": f"{options['folder']}/run",
                "adapter": {"name": "lora", "r": 16, "alpha": 32},
                "optimizer": {"name": "adamw", "lr": options["lr"], "weight_decay": 0.0},
                "schedule": {"name": "constant"},
                "batch_rows": options["rows_per_step"],
                "micro_batch_tokens": options["micro_batch_tokens"],
                "steps": steps,
                "threads": _THREADS,
            }
        )


if __name__ == "__main__":
    engine = Yearling()
    answer_commands({"load": engine.load, "encode": engine.encode, "train": engine.train})
