"""Whole runs on a tiny model: rows to a folder that serves, stopped and taken up again."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.converted_models import add_byte_level_tokenizer, llama_folder
from yearling.core.config import load_config
from yearling.core.errors import ConfigError, DataError, NonFiniteError, TrainingError
from yearling.core.lineage import LineageLedger
from yearling.models.checkpoint import open_checkpoint
from yearling.serving.model import ModelOptions, load_model
from yearling.training import checkpoint, trainer
from yearling.training import plan as planning
from yearling.training.config import TrainConfig
from yearling.training.context import (
    CONTEXT_FILE,
    ContextConfig,
    extend_context,
    read_adapter_context,
)
from yearling.training.loop import Loop
from yearling.training.merge import merge
from yearling.training.metrics import read_metrics
from yearling.training.run_card import read_run_card
from yearling.training.trainer import TrainResult, train


@pytest.fixture(autouse=True)
def own_home(tmp_home: Path) -> None:
    """Lineage records go to a home of the test's own."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = llama_folder(
        tmp_path_factory.mktemp("base") / "tiny", hidden_size=32, intermediate_size=64
    )
    add_byte_level_tokenizer(made)
    return made


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions whose answer is the same word; a model that learns at all learns it."""
    file = tmp_path_factory.mktemp("rows") / "train.jsonl"
    lines = [
        {
            "messages": [
                {"role": "user", "content": f"fox {number}?"},
                {"role": "assistant", "content": "the lazy dog"},
            ]
        }
        for number in range(24)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def config(base: Path, rows: Path, output: Path, *overrides: str) -> TrainConfig:
    fixed = [
        *(f"model={base}", f"data={rows}", f"output={output}", "device=cpu"),
        *("batch_tokens=128", "micro_batch_tokens=64", "data.max_length=64"),
    ]
    return load_config(TrainConfig, None, [*fixed, *overrides])


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file but the card, which says when and where."""
    card = {"run.json", "README.md"}
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir()) if f.name not in card}


def losses(run: Path) -> list[dict[str, Any]]:
    """Metrics without what depends on the clock."""
    clock = {"seconds", "tokens_per_second"}
    lines = read_metrics(run / "metrics.jsonl")
    return [{key: line[key] for key in line if key not in clock} for line in lines]


@pytest.fixture(scope="module")
def full_run(base: Path, rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("YEARLING_HOME", str(tmp_path_factory.mktemp("home")))
        output = tmp_path_factory.mktemp("runs") / "full"
        wanted = config(
            base,
            rows,
            output,
            *("steps=40", "optimizer.lr=3e-3", "data.validation_fraction=0.2"),
            *("validation.every=10", "checkpoint.every=20"),
        )
        result = train(wanted)
        assert result.record is not None
        yield result, LineageLedger().read(result.record)


def test_loss_falls_and_every_step_is_in_the_metrics(full_run: Any) -> None:
    result: TrainResult = full_run[0]
    lines = read_metrics(result.output / "metrics.jsonl")
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 41))
    assert steps[-1]["loss"] < steps[0]["loss"] / 3
    assert steps[-1].keys() >= {"epoch", "lr", "grad_norm", "tokens", "tokens_per_second"}
    validated = [line for line in lines if "validation_loss" in line]
    assert [line["step"] for line in validated] == [10, 20, 30, 40]
    assert validated[-1]["validation_loss"] < validated[0]["validation_loss"]
    assert result.loop.best_loss == min(line["validation_loss"] for line in validated)


def test_run_folder_says_what_it_came_from(full_run: Any, rows: Path) -> None:
    result, record = full_run
    names = {path.name for path in result.output.iterdir()}
    assert names >= {"config.yaml", "data_report.json", "metrics.jsonl", "checkpoints", "model"}
    report = json.loads((result.output / "data_report.json").read_text())
    training, validation = report["training"], report["validation"]
    assert training["kept"] + validation["kept"] == 24
    assert training["pending"] == validation["pending"] == 0
    saved = load_config(TrainConfig, result.output / "config.yaml")
    assert saved.optimizer.to_values()["lr"] == 3e-3
    assert saved.data.paths == (str(rows),)
    assert record.step == "train"
    assert read_run_card(result.model).record == result.record
    assert read_run_card(result.output).scores["steps"] == 40
    assert any(name.endswith("model.safetensors") for name in record.outputs)


def test_output_answers_what_it_was_taught(full_run: Any) -> None:
    from yearling.serving.llm import LLM
    from yearling.serving.request import SamplingParams

    result: TrainResult = full_run[0]
    assert result.model is not None
    question = [{"role": "user", "content": "fox 99?"}]
    with LLM(result.model, weights="float32", context=128) as llm:
        answer = llm.chat(question, SamplingParams(max_tokens=24, temperature=0))
    assert answer.text == "the lazy dog"
    assert answer.finish_reason == "stop"


def test_output_warns_when_it_is_asked_through_another_template(
    full_run: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = full_run[0].model
    load_model(folder)
    assert not caplog.records
    (tmp_path / "other.jinja").write_text("{{ messages[0].content }}")
    load_model(folder, ModelOptions(chat_template=str(tmp_path / "other.jinja")))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "was trained with chat template" in record.getMessage()


def test_transformers_loads_the_output(full_run: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = full_run[0].model
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = [{"role": "user", "content": "fox 99?"}]
    ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    with torch.no_grad():
        answer = model.generate(torch.tensor([ids]), max_new_tokens=24, do_sample=False)
    assert tokenizer.decode(answer[0, len(ids) :]) == "the lazy dog<|im_end|>"


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
def test_adapter_run_writes_what_peft_loads(base: Path, rows: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    result = train(config(base, rows, tmp_path / "run", "adapter={name: lora, r: 4}", "steps=4"))
    assert result.model is not None
    names = {path.name for path in result.model.iterdir()}
    assert names >= {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert (result.model / "chat_template.jinja").read_text() in json.loads(
        (result.model / "tokenizer_config.json").read_text()
    )["chat_template"]
    plain = AutoModelForCausalLM.from_pretrained(base)
    ids = torch.arange(3, 30)[None]
    with torch.no_grad():
        before = plain(ids).logits
        after = PeftModel.from_pretrained(plain, result.model)(ids).logits
    assert float((after - before).abs().max()) > 1e-5
    state = checkpoint.load(tmp_path / "run" / "checkpoints" / "last")
    assert all(".lora_" in name for name in state["modules"]["model"])


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT's own
@pytest.mark.parametrize("method", ["linear", "yarn", "ntk"])
def test_adapter_of_a_longer_context_is_the_same_in_transformers_and_merged(
    base: Path, rows: Path, tmp_path: Path, method: str
) -> None:
    from peft import PeftModel
    from transformers import AutoConfig, AutoModelForCausalLM

    context = f"context={{tokens: 512, method: {method}}}"
    wanted = config(
        base, rows, tmp_path / "run", "adapter=lora", context, "steps=4", "optimizer.lr=0.01"
    )
    model = train(wanted).model
    assert model is not None
    assert "onto the unchanged base" in (model / "README.md").read_text()
    assert merge(model, base, tmp_path / "merged").is_within_tolerance
    saved = read_adapter_context(model)
    assert saved is not None
    settings = {**json.loads((base / "config.json").read_text()), **saved.config}
    theirs = AutoModelForCausalLM.from_pretrained(base, config=AutoConfig.for_model(**settings))
    unchanged = AutoModelForCausalLM.from_pretrained(base)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    ids = torch.arange(3, 90)[None]
    with torch.no_grad():
        expected = PeftModel.from_pretrained(theirs, model)(ids).logits
        wrong = PeftModel.from_pretrained(unchanged, model)(ids).logits
        ours = merged(ids).logits
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    assert float((wrong - expected).abs().max()) > 100 * float((ours - expected).abs().max())


def test_whole_model_of_a_longer_context_says_its_positions(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(base, newer)
    settings = json.loads((newer / "config.json").read_text())
    settings["rope_parameters"] = {"rope_theta": 20_000.0, "rope_type": "default"}
    (newer / "config.json").write_text(json.dumps(settings))
    model = train(config(newer, rows, tmp_path / "run", "context=512", "steps=1")).model
    assert model is not None
    spec = extend_context(open_checkpoint(newer).spec, ContextConfig(tokens=512))
    assert open_checkpoint(model).spec == spec
    assert not (model / CONTEXT_FILE).exists()


@pytest.mark.parametrize(
    "options",
    [(), ("adapter={name: lora, dropout: 0.1}", "ema=0.9"), ("adapter=lora", "threads=2")],
)
def test_stopped_and_resumed_run_equals_one_that_never_stopped(
    base: Path, rows: Path, tmp_path: Path, options: tuple[str, ...], monkeypatch: Any
) -> None:
    common = ("steps=8", "checkpoint.every=3", "optimizer.lr=1e-3", *options)
    whole = train(config(base, rows, tmp_path / "whole", *common))
    wanted = config(base, rows, tmp_path / "stopped", *common)
    take_step = Loop._take_step

    def signalled(self: Any, batches: Any) -> None:
        take_step(self, batches)
        if self.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_take_step", signalled)
        stopped = train(wanted)
    assert (stopped.loop.reason, stopped.loop.step) == ("asked", 5)
    assert (stopped.model, stopped.signal) == (None, signal.SIGTERM)
    rest = train(wanted, resume=True)
    assert rest.resumed_at == 5
    assert rest.model is not None
    assert whole.model is not None
    assert folder_bytes(rest.model) == folder_bytes(whole.model)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    ends = [
        checkpoint.load(tmp_path / name / "checkpoints" / "last") for name in ("stopped", "whole")
    ]
    assert _without_clock(ends[0]) == _without_clock(ends[1])


def _without_clock(state: dict[str, Any]) -> Any:
    progress = {key: value for key, value in state["progress"].items() if key != "seconds"}
    return _comparable({**state, "progress": progress})


def _comparable(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.tolist())
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items()}
    return [_comparable(item) for item in value] if isinstance(value, list) else value


def test_lines_behind_the_checkpoint_are_gone_after_a_crash(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    common = ("steps=6", "checkpoint.every=2")
    whole = train(config(base, rows, tmp_path / "whole", *common))
    wanted = config(base, rows, tmp_path / "crashed", *common)
    take_step = Loop._take_step

    def crash(self: Any, batches: Any) -> None:
        take_step(self, batches)
        if self.step == 5:
            raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_take_step", crash)
        with pytest.raises(RuntimeError, match="power cut"):
            train(wanted)
    assert losses(tmp_path / "crashed")[-1]["step"] == 5
    rest = train(wanted, resume=True)
    assert rest.resumed_at == 4
    assert losses(tmp_path / "crashed") == losses(tmp_path / "whole")
    assert whole.model is not None
    assert rest.model is not None
    assert folder_bytes(rest.model) == folder_bytes(whole.model)


def test_loss_that_is_no_number_is_null_and_the_last_checkpoint_stays(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    make = trainer.make_objective

    def poisoned(*arguments: Any) -> Any:
        from dataclasses import replace

        objective = make(*arguments)
        (update,) = objective.updates
        calls = [0]

        def loss(batch: Any) -> Any:
            calls[0] += 1
            found = update.loss(batch)
            return replace(found, total=found.total * (float("nan") if calls[0] == 4 else 1.0))

        return replace(objective, updates=[replace(update, loss=loss)])

    monkeypatch.setattr(trainer, "make_objective", poisoned)
    wanted = config(
        base, rows, tmp_path / "run", "steps=9", "micro_batch_tokens=128", "checkpoint.every=2"
    )
    with pytest.raises(NonFiniteError, match=r"step 4: loss is nan; rows: .*train\.jsonl:\d+"):
        train(wanted)
    last = losses(tmp_path / "run")[-1]
    assert (last["step"], last["loss"]) == (4, None)
    found = checkpoint.find_last(tmp_path / "run" / "checkpoints")
    assert found is not None
    assert found.name == "step-00000002"
    assert not (tmp_path / "run" / "model").exists()


def test_patience_gives_the_best_weights_not_the_last(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    result = train(
        config(
            base,
            rows,
            tmp_path / "run",
            *("steps=60", "optimizer.lr=0.3", "schedule=constant", "data.validation_fraction=0.3"),
            *("validation={every: 1, patience: 3}", "checkpoint.keep=1"),
        )
    )
    assert result.loop.reason == "patience"
    assert result.loop.step == (result.loop.best_step or 0) + 3
    from safetensors.torch import load_file

    best = checkpoint.load(tmp_path / "run" / "checkpoints" / "best")["modules"]["model"]
    assert result.model is not None
    for name, value in load_file(result.model / "model.safetensors").items():
        assert torch.equal(value, best[name])


def test_second_run_in_the_same_folder_is_refused(base: Path, rows: Path, tmp_path: Path) -> None:
    train(config(base, rows, tmp_path / "run", "steps=1"))
    with pytest.raises(ConfigError, match=r"holds a run already.*\n.*--resume"):
        train(config(base, rows, tmp_path / "run", "steps=1"))
    with pytest.raises(ConfigError, match="steps was 1 and is 2"):
        train(config(base, rows, tmp_path / "run", "steps=2"), resume=True)


def test_data_too_small_or_of_another_kind_are_told_before_anything_is_written(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    with pytest.raises(DataError, match=r"set data\.max_drop higher"):
        train(config(base, rows, output, "data.max_length=4"))
    with pytest.raises(DataError, match="dpo learns from preference"):
        train(config(base, rows, output, "method=dpo"))
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        train(config(base, tmp_path / "nowhere.jsonl", output))
    with pytest.raises(ConfigError, match="is_streaming=true needs steps"):
        train(config(base, rows, output, "data.is_streaming=true"))
    assert not output.exists()


def test_run_that_memory_cannot_hold_is_refused_unless_told_otherwise(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(planning, "available_bytes", lambda: 1_000)
    output = tmp_path / "run"
    with pytest.raises(TrainingError, match="use_memory_check=false tries it all the same"):
        train(config(base, rows, output, "steps=1"))
    assert not output.exists()
    assert train(config(base, rows, output, "steps=1", "use_memory_check=false")).loop.step == 1


def test_streamed_rows_train_like_others(base: Path, rows: Path, tmp_path: Path) -> None:
    wanted = config(
        base,
        rows,
        tmp_path / "run",
        *("data.is_streaming=true", "steps=30", "optimizer.lr=3e-3", "batch_tokens=256"),
    )
    result = train(wanted)
    steps = losses(tmp_path / "run")
    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    assert result.loop.step == 30
