"""The public Python API over a fake model, and once over the real one."""

import gc
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from driving import true_answer
from fake_executor import FakeExecutor, next_token
from fake_tokenizer import ByteTokenizer

from yearling.core.errors import (
    ConfigError,
    ContextLengthError,
    EngineError,
    ModelNotFoundError,
    RequestError,
    UnsupportedError,
)
from yearling.core.messages import Message
from yearling.serving import llm as llm_module
from yearling.serving.llm import LLM
from yearling.serving.model import LoadedModel, ModelOptions
from yearling.serving.request import SamplingParams

GREEDY = SamplingParams(temperature=0, max_tokens=16)


class PlainTemplate:
    """Writes `role:text` lines."""

    def encode(self, messages: tuple[Message, ...]) -> list[int]:
        return list("\n".join(f"{m.role}:{m.text}" for m in messages).encode())


def open_llm(
    monkeypatch: pytest.MonkeyPatch,
    fake: FakeExecutor | None = None,
    *,
    has_tokenizer: bool = True,
    **options: Any,
) -> LLM:
    """An LLM whose files and weights are fakes."""
    fake = fake or FakeExecutor()

    def load_model(name: object, options: ModelOptions) -> LoadedModel:
        return LoadedModel(
            name=str(name),
            path=Path("fake"),
            options=options,
            checkpoint=SimpleNamespace(close=lambda: None),
            tokenizer=ByteTokenizer() if has_tokenizer else None,
            chat_template=PlainTemplate() if has_tokenizer else None,
            context=options.context or 4096,
            vocabulary=258,
            eos_token_ids=(256,),
        )

    monkeypatch.setattr(llm_module, "load_model", load_model)
    monkeypatch.setattr(llm_module, "load_executor", lambda model: fake)
    return LLM(Path.cwd(), **options)


@pytest.fixture
def llm(monkeypatch: pytest.MonkeyPatch) -> Iterator[LLM]:
    with open_llm(monkeypatch) as llm:
        yield llm


def test_chat_answers_with_the_template(llm: LLM) -> None:
    result = llm.chat([{"role": "user", "content": "Hi"}], GREEDY)
    assert list(result.tokens) == true_answer(b"user:Hi", 16)
    assert str(result) == result.text == bytes(result.tokens).decode(errors="replace")
    assert (result.finish_reason, result.usage.prompt_tokens) == ("length", 7)


def test_generate_gives_one_result_for_one_prompt_and_a_list_for_a_list(llm: LLM) -> None:
    one = llm.generate("abc", GREEDY)
    assert list(one.tokens) == true_answer(b"abc", 16)
    assert llm.generate(list(b"abc"), GREEDY).tokens == one.tokens
    assert llm.generate(np.frombuffer(b"abc", np.uint8).tolist(), GREEDY).tokens == one.tokens
    several = llm.generate(["abc", "abd"], GREEDY)
    assert [list(result.tokens) for result in several] == [
        true_answer(b"abc", 16),
        true_answer(b"abd", 16),
    ]
    assert [result.tokens for result in llm.generate([[97, 98, 99]], GREEDY)] == [one.tokens]
    assert llm.generate([], GREEDY) == []


def test_generate_runs_a_large_batch_together(llm: LLM) -> None:
    results = llm.generate([[index % 256, index // 256] for index in range(600)], GREEDY)
    assert [list(r.tokens) for r in results[::97]] == [
        true_answer([index % 256, index // 256], 16) for index in range(0, 600, 97)
    ]
    assert llm.stats().num_steps < 600 * 16 / 50


def test_stream_yields_the_text_of_generate(llm: LLM) -> None:
    pieces = list(llm.stream("abc", GREEDY))
    assert "".join(pieces) == llm.generate("abc", GREEDY).text
    assert len(pieces) > 4
    messages = [{"role": "user", "content": "Hi"}]
    assert "".join(llm.stream(messages, GREEDY)) == llm.chat(messages, GREEDY).text


def test_leaving_a_stream_frees_its_blocks(llm: LLM) -> None:
    for _ in llm.stream("abc", SamplingParams(temperature=0)):
        break
    gc.collect()
    assert llm.stats().num_free_blocks == llm.stats().num_blocks
    assert list(llm.generate("abc", GREEDY).tokens) == true_answer(b"abc", 16)


def test_calls_may_interleave_and_come_from_threads(llm: LLM) -> None:
    stream = llm.stream("slow", GREEDY)
    first = next(stream)
    found: dict[int, tuple[int, ...]] = {}

    def ask(index: int) -> None:
        found[index] = llm.generate([index, 1], GREEDY).tokens

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {i: list(tokens) for i, tokens in found.items()} == {
        i: true_answer([i, 1], 16) for i in range(6)
    }
    assert first + "".join(stream) == llm.generate("slow", GREEDY).text


def test_logits_have_a_row_per_token(llm: LLM) -> None:
    rows = llm.logits([1, 2, 3])
    assert np.argmax(rows, axis=1).tolist() == [
        next_token([1, 2, 3][:end], 256) for end in (1, 2, 3)
    ]


@pytest.mark.parametrize(
    ("ids", "error"), [([], RequestError), ([258], RequestError), ([1] * 4097, ContextLengthError)]
)
def test_logits_refuse_what_the_model_cannot_take(
    llm: LLM, ids: list[int], error: type[Exception]
) -> None:
    with pytest.raises(error):
        llm.logits(ids)


def test_logprobs_come_with_the_result(llm: LLM) -> None:
    result = llm.generate("abc", GREEDY.model_copy(update={"logprobs": 0, "prompt_logprobs": 0}))
    assert [item.token for item in result.logprobs] == list(result.tokens)
    assert result.prompt_score is not None
    assert len(result.prompt_score.tokens) == 3


def test_text_and_ids_convert_both_ways(llm: LLM) -> None:
    assert llm.tokenize("é<end>") == [0xC3, 0xA9, 256]
    assert llm.detokenize([0xC3, 0xA9, 256]) == "é"
    assert llm.detokenize([97, 256], skip_special=False) == "a<end>"


def test_too_long_prompt_is_refused_and_leaves_nothing_running(llm: LLM) -> None:
    with pytest.raises(ContextLengthError, match="the prompt has 5000 tokens"):
        llm.generate(["short", "x" * 5000], GREEDY)
    assert (llm.stats().num_running, llm.stats().num_waiting) == (0, 0)


def test_model_without_tokenizer_takes_ids_only(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_llm(monkeypatch, has_tokenizer=False) as llm:
        (result,) = llm.generate([[1, 2, 3]], GREEDY)
        assert (list(result.tokens), result.text) == (true_answer([1, 2, 3], 16), "")
        with pytest.raises(UnsupportedError, match="give token ids instead of text"):
            llm.generate("text")
        with pytest.raises(UnsupportedError, match="no chat template"):
            llm.chat([{"role": "user", "content": "Hi"}])


def test_failure_of_the_executor_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_llm(monkeypatch, FakeExecutor(fail_on_call=3)) as llm:
        with pytest.raises(EngineError, match="injected failure"):
            llm.generate("abc", GREEDY)
        with pytest.raises(EngineError, match="injected failure"):
            llm.generate("abc", GREEDY)


def test_close_frees_the_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = FakeExecutor()
    llm = open_llm(monkeypatch, executor)
    stream = llm.stream("abc", GREEDY)
    next(stream)
    llm.close()
    llm.close()
    assert executor.is_closed
    with pytest.raises(EngineError, match="was closed"):
        next(stream)
    with pytest.raises(EngineError, match="was closed"):
        llm.logits([1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": "int8"}, r"LLM\(weight='int8'\): Extra inputs are not permitted.*weights"),
        ({"weights": "int3"}, r"LLM\(weights='int3'\): Input should be 'auto'"),
        (
            {"executor": "cuda"},
            r"LLM\(executor='cuda'\): Input should be 'auto', 'native', 'torch'",
        ),
        ({"context": 0}, r"LLM\(context=0\): .*greater than or equal to 1"),
    ],
)
def test_wrong_option_names_itself(
    monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        open_llm(monkeypatch, **options)


def test_encoder_gives_vectors_of_texts_and_token_ids(minilm_path: Path) -> None:
    with LLM(minilm_path) as llm:
        several = llm.embed(["A cat sits.", "Ein Hund bellt.", "[SEP] is text here"])
        assert several.shape == (3, 384)
        np.testing.assert_array_equal(llm.embed("A cat sits."), several[0])
        ids = llm._tokenizer().encode("A cat sits.", add_special=True)
        np.testing.assert_array_equal(llm.embed([ids])[0], several[0])
        np.testing.assert_array_equal(llm.embed(ids), several[0])
        assert llm._tokenizer().special_tokens["[SEP]"] not in llm._encode_whole("[SEP]")[1:-1]
        assert llm.embed([]).shape == (0, 384)
        with pytest.raises(ContextLengthError, match=r"input\[1\] has 302 tokens"):
            llm.embed(["short", "long " * 300])
        with pytest.raises(UnsupportedError, match="encoder"):
            llm.generate("text", GREEDY)
        with pytest.raises(UnsupportedError, match="vectors, not logits"):
            llm.logits([1])


def test_decoder_gives_no_vectors(llm: LLM) -> None:
    with pytest.raises(UnsupportedError, match=r"gives no vectors.*minilm"):
        llm.embed([[1, 2]])


def test_unknown_model_is_not_found(tmp_home: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        LLM("no-such-model")


@pytest.mark.promised("caching, batches, chunks and preemption change no token")
def test_real_model_says_the_same_alone_in_company_in_chunks_and_preempted(
    smollm2_path: Path,
) -> None:
    prompts = [f"{'Once upon a time there was a fox. ' * index}It" for index in range(6)]
    greedy = SamplingParams(temperature=0, max_tokens=12)
    with LLM(smollm2_path, context=512) as llm:
        alone = [llm.generate(prompt, greedy).tokens for prompt in prompts]
        together = [result.tokens for result in llm.generate(prompts, greedy)]
        assert llm.stats().cache_hit_tokens > 0
    # Two sequences of 64 tokens fill a cache this small.
    with LLM(smollm2_path, context=512, max_step_tokens=16, cache_bytes=9 * 23040 * 16) as llm:
        squeezed = [result.tokens for result in llm.generate(prompts, greedy)]
        assert llm.stats().num_preemptions > 0
    assert alone == together == squeezed


def test_chat_ends_where_the_template_ends_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    with open_llm(monkeypatch) as llm:
        whole = llm.chat([{"role": "user", "content": "hi"}], GREEDY).text
        marker = whole[4:6]
        monkeypatch.setattr(llm, "_model", replace(llm._model, chat_stop=(marker,)))
        cut = llm.chat([{"role": "user", "content": "hi"}], GREEDY)
        assert cut.text == whole[: whole.index(marker)]
        assert cut.finish_reason == "stop"
        streamed = "".join(llm.stream([{"role": "user", "content": "hi"}], GREEDY))
        assert streamed == cut.text
        assert llm.generate("user:hi", GREEDY).text == whole
