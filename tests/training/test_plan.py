"""The estimate before a run: near what is measured, and a refusal that names what fits."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from yearling.core.errors import ModelNotFoundError, TrainingError
from yearling.models.families import families
from yearling.models.fields import Fields
from yearling.models.presets import find_preset
from yearling.models.torch_decoder import TorchDecoder
from yearling.training import plan as planning
from yearling.training.activations import measure_activations
from yearling.training.config import TrainConfig
from yearling.training.plan import (
    MemoryPart,
    check_fits,
    find_spec,
    plan_memory,
    plan_run,
    refuse_too_large,
)

_SMALL = {
    "model_type": "llama",
    "vocab_size": 2048,
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
_MEASURE = """
import ctypes, json, re, sys, torch
from pathlib import Path
from yearling.models.families import families
from yearling.models.fields import Fields
from yearling.models.torch_decoder import Segments, TorchDecoder, initialise, labelled_losses
from yearling.training.adapters import adapters
from yearling.training.optimizers import optimizers

def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def train(config, lengths, settings):
    family = families.get("llama")
    spec = family.spec_from_config(Fields(config, "config.json"))
    decoder = TorchDecoder(spec, family, device="cpu")
    initialise(decoder, seed=0)
    if settings["adapter"]:
        adapter = adapters.get("lora")
        adapter.attach(decoder, adapter.config(), 0)
    decoder.uses_checkpointing = settings["use_checkpointing"]
    trained = [p for p in decoder.parameters() if p.requires_grad]
    kind = optimizers.get("adamw")
    optimizer = kind.build([{"params": trained}], kind.config())
    tokens = torch.arange(sum(lengths)) % config["vocab_size"]
    for _ in range(2):
        for _ in range(2):
            hidden = decoder(tokens, Segments(lengths))
            labelled_losses(decoder, hidden, tokens).mean().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)

settings = json.loads(sys.argv[1])
ctypes.CDLL(None).mallopt(-3, 1 << 20)  # large blocks go back at once: what is in use is measured
torch.set_num_threads(1)
small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 64}
train({**settings["config"], **small}, [8], settings)  # libraries take their own memory first
before = status("VmRSS")
train(settings["config"], [512] * (settings["tokens"] // 512), settings)
print(status("VmHWM") - before)
"""


def _config(**options: Any) -> TrainConfig:
    values = {"model": "llama-2-7b", "output": "out", "data": "rows.jsonl", **options}
    return TrainConfig.model_validate(values)


def _parts(config: TrainConfig, spec: Any) -> dict[str, int]:
    return {part.name: part.num_bytes for part in plan_memory(config, spec)}


@pytest.mark.slow
@pytest.mark.parametrize(("adapter", "use_checkpointing"), [(None, False), ("lora", True)])
def test_memory_is_within_35_percent_of_what_is_measured(
    adapter: str | None, use_checkpointing: bool
) -> None:
    tokens = 1536
    settings = {
        "config": _SMALL,
        "adapter": adapter,
        "use_checkpointing": use_checkpointing,
        "tokens": tokens,
    }
    root = Path(__file__).parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", _MEASURE, json.dumps(settings)],
        capture_output=True,
        text=True,
        cwd=root,
        env={"PYTHONPATH": str(root / "src"), "OMP_NUM_THREADS": "1"},
        timeout=110,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    measured = int(ended.stdout)
    spec = families.get("llama").spec_from_config(Fields(_SMALL, "config.json"))
    parts = _parts(
        _config(
            adapter=adapter,
            use_checkpointing=use_checkpointing,
            micro_batch_tokens=tokens,
            data={"paths": "rows.jsonl", "max_length": 512},
        ),
        spec,
    )
    estimate = sum(parts.values()) - parts["process"]
    assert estimate == pytest.approx(measured, rel=0.35), (estimate, measured)
    # Without the activations the estimate would not hold.
    assert estimate - parts["activations"] < 0.65 * measured


def test_kept_tensors_are_those_of_a_real_forward_pass() -> None:
    """What the run without memory counts is what autograd keeps on the processor."""
    config = {**_SMALL, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    family = families.get("llama")
    spec = family.spec_from_config(Fields(config, "config.json"))
    counted = measure_activations(TorchDecoder(spec, family), 96, sequence_tokens=32)
    real = TorchDecoder(spec, family, device="cpu")
    own = {value.untyped_storage().data_ptr() for value in real.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(value: torch.Tensor) -> torch.Tensor:
        place = value.untyped_storage().data_ptr()
        if place not in own and value.is_floating_point():
            kept[place] = value
        return value

    from yearling.models.torch_decoder import Segments

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        hidden = real(torch.arange(96), Segments([32] * 3))
    assert hidden.requires_grad
    expected = sum(value.untyped_storage().nbytes() for value in kept.values())
    assert counted.kept == pytest.approx(expected, rel=0.1)


def test_parts_follow_the_settings() -> None:
    spec = families.get("llama").spec_from_config(Fields(_SMALL, "config.json"))
    full = _parts(_config(), spec)
    weights = full["weights"]
    assert full["gradients"] == weights
    assert full["optimizer"] == pytest.approx(2 * weights, rel=0.01)
    lora = _parts(_config(adapter="lora"), spec)
    assert lora["gradients"] < 0.1 * weights
    assert lora["optimizer"] < 0.2 * weights
    assert _parts(_config(use_checkpointing=True), spec)["activations"] < 0.5 * full["activations"]
    half = _parts(_config(micro_batch_tokens=1024), spec)
    assert half["activations"] == pytest.approx(full["activations"] / 2, rel=0.05)
    assert "reference" not in full
    assert _parts(_config(method="dpo"), spec)["reference"] == weights
    assert "reference" not in _parts(_config(method="dpo", adapter="lora"), spec)
    assert _parts(_config(ema=0.99), spec)["average"] == weights
    assert _parts(_config(precision="bfloat16"), spec)["activations"] < full["activations"]


def test_published_sizes_are_planned_and_refused_with_what_helps(
    monkeypatch: pytest.MonkeyPatch, tmp_home: Path, tmp_path: Path
) -> None:
    config = _config(model="smollm2-360m", output=str(tmp_path / "out"), steps=10)
    free = 9_000_000_000
    monkeypatch.setattr(planning, "available_bytes", lambda: free)
    # Of a fresh process: what this one holds depends on the tests before.
    monkeypatch.setattr(planning, "_process_bytes", lambda: 450_000_000)
    planned = plan_run(config)
    assert planned.parameters == find_preset("smollm2-360m").parameters
    assert planned.data.steps == 10
    assert "rows were not counted" in planned.data.note
    with pytest.raises(TrainingError, match=r"needs .* GB of memory, and 9\.0 GB are free") as seen:
        check_fits(config, planned)
    assert "adapter: lora" in str(seen.value)


def test_refusal_names_the_micro_batch_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = _config(adapter="lora", micro_batch_tokens=8192)
    spec = families.get("llama").spec_from_config(Fields(_SMALL, "config.json"))
    monkeypatch.setattr(planning, "find_spec", lambda config: spec)
    needs = {
        tokens: sum(
            part.num_bytes
            for part in plan_memory(_config(adapter="lora", micro_batch_tokens=tokens), spec)
        )
        for tokens in (8192, 2048)
    }
    free = needs[2048] + 20_000_000
    plan = planning.RunPlan(
        parameters=1,
        trained=1,
        memory=(MemoryPart("activations", needs[8192]),),
        available=free,
        checkpoint_bytes=0,
        disk_bytes=0,
        free_disk_bytes=1,
        data=planning.DataPlan(None, None, None, None, None),
        flops_per_token=1,
        flops_per_second=1,
    )
    with pytest.raises(TrainingError, match=r"Any one of these fits: .*micro_batch_tokens: 2048 "):
        check_fits(config, plan)


def test_disk_that_is_too_small_is_refused() -> None:
    plan = planning.RunPlan(
        parameters=1,
        trained=1,
        memory=(),
        available=1,
        checkpoint_bytes=10**9,
        disk_bytes=3 * 10**9,
        free_disk_bytes=10**9,
        data=planning.DataPlan(None, None, None, None, None),
        flops_per_token=1,
        flops_per_second=1,
    )
    with pytest.raises(
        TrainingError, match=r"need 3\.0 GB on disk, and 1\.0 GB are free.*\n.*keep"
    ):
        check_fits(_config(), plan)


def test_unknown_model_names_the_nearest(tmp_home: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="llama-2-7b"):
        find_spec(_config(model="lama-2-7b"))


def test_loading_in_float32_counts_where_the_base_shrinks_later() -> None:
    spec = families.get("llama").spec_from_config(Fields(_SMALL, "config.json"))
    parts = _parts(_config(adapter="qlora", micro_batch_tokens=64), spec)
    held = sum(parts.values()) - parts["process"]
    assert parts["weights"] < 0.6 * _parts(_config(), spec)["weights"]
    assert held >= _parts(_config(), spec)["weights"]


@pytest.mark.parametrize("adapter", [None, "lora"])
def test_run_that_cannot_fit_is_refused_before_it_starts(
    tmp_home: Path, monkeypatch: pytest.MonkeyPatch, adapter: str | None
) -> None:
    spec = families.get("llama").spec_from_config(Fields(_SMALL, "config.json"))
    monkeypatch.setattr(planning, "find_spec", lambda _: spec)
    config = _config(adapter=adapter)
    monkeypatch.setattr(planning, "available_bytes", lambda: 10**12)
    refuse_too_large(config)
    monkeypatch.setattr(planning, "available_bytes", lambda: 10**6)
    monkeypatch.setattr(planning, "_needed", lambda *_: 10**5)
    said = r"needs .* of memory.*\n.*fits: .*adapter: .*\n  use_memory_check=false tries"
    with pytest.raises(TrainingError, match=said):
        refuse_too_large(config)
