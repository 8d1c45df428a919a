"""Guessed tokens: answers are those without, whatever is guessed, and right guesses save steps."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from driving import drive, make_engine, make_request, true_answer
from fake_executor import FakeExecutor
from fake_tokenizer import ByteTokenizer
from test_engine import PROMPTS

from tests.models.tiny_files import tiny_gguf
from yearling import LLM, SamplingParams
from yearling.core.errors import ConfigError
from yearling.serving.draft_model import DraftModel
from yearling.serving.drafts import Pace, PromptLookup
from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.executor import CacheShape

Wanted = Mapping[str, tuple[Sequence[int], int]]


class Oracle:
    """Knows what the fake model will say, and errs now and then."""

    share_of_errors = 0.2
    is_costly = False

    def __init__(self) -> None:
        self._dice = random.Random(7)

    def guess(self, wanted: Wanted) -> dict[str, tuple[int, ...]]:
        return {name: self.guess_one(*asked) for name, asked in wanted.items()}

    def guess_one(self, tokens: Sequence[int], count: int) -> tuple[int, ...]:
        truth = true_answer(tokens, self._dice.randrange(count + 1))
        return tuple(t ^ (self._dice.random() < self.share_of_errors) for t in truth)


@pytest.fixture(autouse=True)
def oracle(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "smollm2_path" not in request.fixturenames:
        monkeypatch.setattr("yearling.serving.engine.PromptLookup", Oracle)


@pytest.mark.parametrize("max_guesses", [1, 7, 63])
@pytest.mark.parametrize(
    ("executor", "config"),
    [
        ({}, {}),
        ({}, {"max_sequences": 1}),
        ({}, {"max_step_tokens": 16}),
        ({"num_blocks": 8}, {"max_sequences": 3}),
        ({"max_logit_rows": 5, "max_step_tokens": 24}, {}),
    ],
)
def test_answers_are_those_without(
    executor: dict[str, Any], config: dict[str, Any], max_guesses: int
) -> None:
    engine = make_engine(
        FakeExecutor(**executor), speculation="prompt_lookup", max_guesses=max_guesses, **config
    )
    # The longer answers end among few, and one alone, when there are rows left for guesses.
    lengths = [5 + index % 16 for index in range(len(PROMPTS) - 1)] + [60]
    requests = [
        make_request(prompt, max_tokens=length)
        for prompt, length in zip(PROMPTS, lengths, strict=True)
    ]
    expected = [true_answer(p, length) for p, length in zip(PROMPTS, lengths, strict=True)]
    assert [answer.tokens for answer in drive(engine, *requests)] == expected
    stats = engine.stats()
    assert stats.num_free_blocks == stats.num_blocks
    assert 0 < stats.accepted_tokens < stats.guessed_tokens
    assert stats.generated_tokens == sum(lengths)


def test_right_guesses_save_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Oracle, "share_of_errors", 0.0)
    steps = []
    for speculation in ("none", "prompt_lookup"):
        engine = make_engine(speculation=speculation)
        drive(engine, make_request(PROMPTS[0], max_tokens=60))
        steps.append(engine.stats().num_steps)
    assert steps[1] < steps[0] / 2


def test_answer_ends_among_guesses_where_it_ends_without() -> None:
    answer = true_answer(PROMPTS[0], 20)
    for stop in answer[3:9]:
        engine = make_engine(speculation="prompt_lookup")
        (given,) = drive(engine, make_request(PROMPTS[0], stop_token_ids=(stop,)))
        assert given.tokens == answer[: answer.index(stop) + 1]
        assert engine.stats().num_running == 0


def test_no_guesses_where_a_choice_depends_on_the_one_before_or_nothing_is_undone() -> None:
    for executor, sampling in (
        (FakeExecutor(), {"repetition_penalty": 1.3}),
        (FakeExecutor(), {"guide": {"regex": "[a-z]{4}"}}),
        (FakeExecutor(shapes=[CacheShape("full", 64), CacheShape("window", 64, 32)]), {}),
        (FakeExecutor(shapes=[CacheShape("state", 8)], can_share_prefixes=False), {}),
    ):
        engine = make_engine(executor, speculation="prompt_lookup")
        drive(engine, make_request(PROMPTS[0], **sampling))
        assert engine.stats().guessed_tokens == 0


def test_wrong_guess_that_breaks_the_logits_hurts_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = true_answer(PROMPTS[0], 40)
    bad = next(token for token in range(256) if token not in {*answer, *PROMPTS[0]})
    monkeypatch.setattr(
        Oracle, "guess_one", lambda _, tokens, count: (*true_answer(tokens, 2), bad, bad)[:count]
    )
    engine = make_engine(FakeExecutor(bad_token=bad), speculation="prompt_lookup")
    (given,) = drive(engine, make_request(PROMPTS[0], max_tokens=40))
    assert given.tokens == answer
    assert engine.stats().guessed_tokens > 40
    # But an answer that really goes there ends.
    late = answer[20]
    engine = make_engine(FakeExecutor(bad_token=late), speculation="prompt_lookup")
    (given,) = drive(engine, make_request(PROMPTS[0], max_tokens=40))
    assert given.events[-1].finish_reason == "error"
    assert given.tokens == answer[: answer.index(late) + 1]


def test_guesses_do_not_hold_up_a_prompt() -> None:
    engine = make_engine(speculation="prompt_lookup", max_guesses=63, max_step_tokens=16)
    engine.add(make_request(PROMPTS[0], max_tokens=200))
    for _ in range(8):
        engine.step()
    late = make_request(PROMPTS[1], max_tokens=4)
    engine.add(late)
    steps = next(
        n for n in range(100) if any(e.request_id == late.request_id for e in engine.step())
    )
    assert steps <= len(PROMPTS[1]) // 15 + 1


def test_guesses_are_shorter_after_one_that_failed() -> None:
    pace = Pace(most=8)
    assert pace.next_length() == 8
    pace.learn(8, 2)
    assert pace.next_length() == 4
    pace.learn(4, 0)
    assert [pace.next_length() for _ in range(4)] == [0, 0, 0, 1]
    pace.learn(1, 1)
    assert pace.next_length() == 2


def test_each_request_is_looked_up_in_its_own_text_until_it_ends() -> None:
    lookup, seen = PromptLookup(), [1, 2, 3, *range(10, 30), 1, 2, 3]
    asked = {"a": (seen, 8), "b": ([1, 2, 3, 50, 1, 2, 3], 2), "c": (seen, 0)}
    assert lookup.guess(asked) == {"a": tuple(range(10, 18)), "b": (50, 1), "c": ()}
    assert lookup.guess({"b": ([1, 2, 3, 50, 1, 2, 3, 50], 1)}) == {"b": (1,)}
    assert lookup.guess({"a": ([1, 2, 3], 4)}) == {"a": ()}  # another of that name


class ErringDraft(DraftModel):
    """A draft that is the model itself, but for a fifth of what it says."""

    dice = random.Random(7)

    def guess(self, wanted: Any) -> Any:
        return {
            name: tuple(t ^ (self.dice.random() < 0.2) for t in tokens)
            for name, tokens in super().guess(wanted).items()
        }


def draft_of(kind: type[DraftModel], executor: FakeExecutor | None = None) -> DraftModel:
    return kind(make_engine(executor), vocabulary=258, close=lambda: None)


def drafted_engine(draft: DraftModel, executor: FakeExecutor | None = None, **config: Any):
    return Engine(
        executor or FakeExecutor(),
        ByteTokenizer(),
        context=4096,
        eos_token_ids=(256,),
        config=EngineConfig(speculation="draft_model", **config),
        vocabulary=258,
        drafter=draft,
    )


@pytest.mark.parametrize("max_guesses", [1, 7, 63])
@pytest.mark.parametrize("kind", [DraftModel, ErringDraft])
@pytest.mark.parametrize("executor", [{}, {"num_blocks": 8}])
def test_answers_beside_a_draft_model_are_those_without(
    kind: type[DraftModel], executor: dict[str, Any], max_guesses: int
) -> None:
    draft = draft_of(kind)
    engine = drafted_engine(draft, FakeExecutor(**executor), max_guesses=max_guesses)
    asked = list(zip(PROMPTS[:5], (12, 18, 24, 30, 60), strict=True))  # one ends up alone
    requests = [make_request(prompt, max_tokens=length) for prompt, length in asked]
    answers = [answer.tokens for answer in drive(engine, *requests)]
    assert answers == [true_answer(prompt, length) for prompt, length in asked]
    stats = engine.stats()
    assert stats.guessed_tokens > 0
    assert (stats.accepted_tokens == stats.guessed_tokens) is (kind is DraftModel)
    assert stats.num_free_blocks == stats.num_blocks


def test_a_draft_model_reads_a_text_once() -> None:
    """What it has read of an answer it finds again: its prompts are read in blocks, once."""
    draft = draft_of(DraftModel)
    prompt = list(range(200)) + list(range(50))
    drive(drafted_engine(draft, max_guesses=4), make_request(prompt, max_tokens=40))
    stats = draft._engine.stats()
    read = stats.prompt_tokens - stats.cache_hit_tokens
    assert read < len(prompt) + 16 * 10  # eight guesses of five tokens, a block of 16 each


def test_a_draft_model_that_fails_or_has_no_room_costs_guesses_only() -> None:
    answer = true_answer(PROMPTS[0], 40)
    broken = draft_of(DraftModel, FakeExecutor(bad_token=answer[9]))
    short = DraftModel(
        make_engine(context=len(PROMPTS[0]) + 10), vocabulary=258, close=lambda: None
    )
    for draft in (broken, short):
        engine = drafted_engine(draft)
        (given,) = drive(engine, make_request(PROMPTS[0], max_tokens=40))
        assert given.tokens == answer
        assert 0 < engine.stats().guessed_tokens < 40


def test_a_text_with_a_token_that_the_draft_lacks_goes_on_without_guesses() -> None:
    draft_engine = make_engine()
    draft_engine.limits = replace(draft_engine.limits, vocabulary=200)
    draft = DraftModel(draft_engine, vocabulary=258, close=lambda: None)
    engine = drafted_engine(draft)
    odd, plain = [250, *PROMPTS[0]], [t % 200 for t in PROMPTS[1]]
    answers = drive(engine, make_request(odd, max_tokens=20), make_request(plain, max_tokens=20))
    assert [a.tokens for a in answers] == [true_answer(odd, 20), true_answer(plain, 20)]
    assert engine.error is None


def test_no_more_is_drafted_than_is_checked() -> None:
    draft = draft_of(DraftModel)
    engine = drafted_engine(draft)
    drive(engine, *(make_request(prompt, max_tokens=60) for prompt in PROMPTS[:5]))
    checked, drafted = engine.stats().guessed_tokens, draft._engine.stats().generated_tokens
    assert 0 < drafted <= 1.2 * checked


def test_a_long_text_is_read_over_several_steps() -> None:
    draft = DraftModel(make_engine(max_step_tokens=16), vocabulary=258, close=lambda: None)
    prompt = [t % 251 for t in range(900)]
    engine = drafted_engine(draft, max_guesses=4)
    (given,) = drive(engine, make_request(prompt, max_tokens=60))
    assert given.tokens == true_answer(prompt, 60)
    assert engine.stats().accepted_tokens > 10
    assert draft._engine.stats().num_running == 0


def test_guesses_of_a_draft_need_one_and_somebody_who_checks_them() -> None:
    with pytest.raises(ConfigError, match="needs the model that drafts"):
        make_engine(speculation="draft_model")
    closed: list[bool] = []
    draft = DraftModel(make_engine(), vocabulary=258, close=lambda: closed.append(True))
    window = FakeExecutor(shapes=[CacheShape("full", 64), CacheShape("window", 64, 32)])
    with pytest.raises(ConfigError, match="leave draft_model out"):
        drafted_engine(draft, window)
    assert closed


def test_contradicting_options_are_refused(smollm2_path: Path) -> None:
    with pytest.raises(ConfigError, match="contradict"):
        LLM(smollm2_path, speculation="none", draft_model=str(smollm2_path))


def test_tokens_that_only_the_draft_knows_are_no_guesses() -> None:
    draft = DraftModel(make_engine(), vocabulary=100, close=lambda: None)
    found = draft.guess({"a": (PROMPTS[0], 20)})["a"]
    truth = true_answer(PROMPTS[0], 20)
    assert found == tuple(truth[: next(i for i, t in enumerate(truth) if t >= 100)])


def test_draft_model_of_other_tokens_is_refused(smollm2_path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_gguf())
    with pytest.raises(ConfigError, match="has other tokens than"):
        LLM(smollm2_path, draft_model=str(other))


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_real_answers_keep_their_bits_beside_a_draft_model(
    smollm2_path: Path, temperature: float
) -> None:
    """The model as its own draft: greedy, nearly every guess holds."""
    sampling = SamplingParams(
        max_tokens=32, min_tokens=32, temperature=temperature, seed=5, logprobs=2
    )
    prompts = ["Once upon a time, there was", "The capital of France is"]
    with (
        LLM(smollm2_path, speculation="none") as plain,
        LLM(smollm2_path, draft_model=str(smollm2_path)) as guessing,
    ):
        expected = plain.generate(prompts, sampling)
        assert [r.logprobs for r in guessing.generate(prompts, sampling)] == [
            r.logprobs for r in expected
        ]
        stats = guessing.stats()
        if temperature == 0:
            assert stats.accepted_tokens > 0.9 * stats.guessed_tokens > 20


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_real_answers_keep_their_bits(smollm2_path: Path, temperature: float) -> None:
    text = "The quick brown fox jumps over the lazy dog, and the cat looks on."
    prompts = [f"{text} {text} The quick brown", "Once upon a time, there was", "1 2 3 4 1 2 3 4 1"]
    sampling = SamplingParams(
        max_tokens=48, min_tokens=40, temperature=temperature, seed=5, logprobs=2
    )
    with (
        LLM(smollm2_path, speculation="none") as plain,
        LLM(smollm2_path, speculation="prompt_lookup") as guessing,
    ):
        for several in (prompts[:1], prompts):
            expected = plain.generate(several, sampling)
            given = guessing.generate(several, sampling)
            assert [r.logprobs for r in given] == [r.logprobs for r in expected]
        assert guessing.stats().accepted_tokens > (20 if temperature == 0 else 0)
        assert plain.stats().guessed_tokens == 0
