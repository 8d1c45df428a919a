"""Opening a real model by path, and serving it from a child process."""

import sys
from pathlib import Path

import pytest
from driving import drive, make_request

from yearling.core.errors import (
    ConfigError,
    ModelFormatError,
    ModelNotFoundError,
    UnsupportedError,
)
from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint
from yearling.serving.encoder_engine import EncoderEngine
from yearling.serving.executors.native import NativeExecutor
from yearling.serving.model import ModelOptions, build_engine, load_executor, load_model
from yearling.serving.request import OutputEvent
from yearling.serving.worker import ModelWorker


def test_load_model_reads_all_but_the_weights(smollm2_path: Path) -> None:
    model = load_model(smollm2_path)
    assert model.path == smollm2_path
    assert model.tokenizer is not None
    assert model.chat_template is not None
    assert model.context == model.checkpoint.spec.context
    assert model.eos_token_ids == (model.tokenizer.special_tokens["<|im_end|>"],)


def test_context_may_be_smaller_than_the_models_but_not_larger(smollm2_path: Path) -> None:
    assert load_model(smollm2_path, ModelOptions(context=100)).context == 100
    with pytest.raises(ConfigError, match=r"context=99999 is more than the \d+ tokens"):
        load_model(smollm2_path, ModelOptions(context=99999))


def test_missing_model_is_not_found(tmp_home: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_model("no-such-model")


@pytest.mark.parametrize("executor", ["auto", "native"])
def test_native_core_runs_what_a_family_covers(smollm2_path: Path, executor: str) -> None:
    options = ModelOptions.model_validate({"executor": executor, "context": 64})
    assert isinstance(load_executor(load_model(smollm2_path, options)), NativeExecutor)


def test_as_many_run_at_once_as_were_asked_for(smollm2_path: Path) -> None:
    """More than the tokens of a usual step."""
    engine = build_engine(str(smollm2_path), {"max_sequences": 240})
    for _ in range(240):
        engine.add(make_request([1], max_tokens=8))
    engine.step()
    assert engine.stats().num_running == 240


def test_encoder_has_an_engine_of_its_own(minilm_path: Path) -> None:
    model = load_model(minilm_path)
    assert (model.embedding_width, model.context) == (384, 256)
    assert isinstance(build_engine(str(minilm_path), {}), EncoderEngine)


def test_option_that_an_executor_does_not_have_is_refused(smollm2_path: Path) -> None:
    with pytest.raises(ConfigError, match="device=cuda means nothing to the native core"):
        load_executor(load_model(smollm2_path, ModelOptions(device="cuda")))
    with pytest.raises(ConfigError, match=r"reads model folders, and SmolLM2.* is a file"):
        load_model(smollm2_path, ModelOptions(executor="transformers"))


def test_missing_library_names_what_to_install(
    smollm2_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "yearling.serving.executors.torch", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    model = load_model(smollm2_path, ModelOptions(executor="torch"))
    with pytest.raises(UnsupportedError, match=r"needs torch.*pip install 'yearling\[train\]'"):
        load_executor(model)


def test_folder_that_no_family_covers_falls_back_to_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text('{"model_type": "unheard_of", "vocab_size": 97}')
    with pytest.raises(ModelFormatError, match="unheard_of"):
        load_model(tmp_path, ModelOptions(executor="native"))
    model = load_model(tmp_path)
    assert isinstance(model.checkpoint, FallbackCheckpoint)
    assert (model.vocabulary, model.embedding_width) == (97, None)
    with pytest.raises(ConfigError, match="cache_bytes=9 means nothing to the transformers"):
        load_executor(load_model(tmp_path, ModelOptions(cache_bytes=9)))


async def test_worker_serves_what_an_engine_here_says(smollm2_path: Path) -> None:
    options = ModelOptions(context=256).model_dump()
    prompt = [1, 4093, 198, 2, 1, 520]
    (here,) = drive(build_engine(str(smollm2_path), options), make_request(prompt))
    worker = ModelWorker("smollm2", {"path": str(smollm2_path), "options": options})
    await worker.start()
    try:
        there: list[OutputEvent] = [e async for e in worker.generate(make_request(prompt))]
    finally:
        await worker.stop()
    assert [token for event in there for token in event.tokens] == here.tokens
    assert "".join(event.text for event in there) == here.text


async def test_worker_reports_a_missing_model_by_its_own_error(tmp_path: Path) -> None:
    worker = ModelWorker("gone", {"path": str(tmp_path / "gone.gguf"), "options": {}})
    with pytest.raises(ModelNotFoundError, match=r"gone\.gguf"):
        await worker.start()
