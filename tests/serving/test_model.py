"""Opening a real model by path, and serving it from a child process."""

from pathlib import Path

import pytest
from driving import drive, make_request

from yearling.core.errors import ConfigError, ModelNotFoundError
from yearling.serving.model import ModelOptions, build_engine, load_model
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
