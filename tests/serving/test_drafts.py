"""Guessed tokens: answers are those without, whatever is guessed, and right guesses save steps."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from driving import drive, make_engine, make_request, true_answer
from fake_executor import FakeExecutor
from test_engine import PROMPTS

from yearling import LLM, SamplingParams
from yearling.serving.drafts import PromptLookup
from yearling.serving.executor import CacheShape


class Oracle:
    """Knows what the fake model will say, and errs now and then."""

    share_of_errors = 0.2

    def __init__(self, most: int) -> None:
        self._most = most
        self._dice = random.Random(most)

    def guess(self, tokens: Sequence[int]) -> tuple[int, ...]:
        truth = true_answer(tokens, self._dice.randrange(self._most + 1))
        return tuple(t ^ (self._dice.random() < self.share_of_errors) for t in truth)

    def learn(self, num_guessed: int, num_held: int) -> None:
        assert 0 <= num_held <= num_guessed


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
    monkeypatch.setattr(Oracle, "guess", lambda _, tokens: (*true_answer(tokens, 2), bad, bad))
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
    lookup = PromptLookup(most=8)
    seen = [1, 2, 3, *range(10, 30), 1, 2, 3]
    assert lookup.guess(seen) == tuple(range(10, 18))
    lookup.learn(8, 2)
    assert lookup.guess([*seen, 10, 11]) == (12, 13, 14, 15)
    lookup.learn(4, 0)
    assert [lookup.guess([*seen, *range(10, 12 + n)]) for n in range(4)] == [(), (), (), (15,)]
    lookup.learn(1, 1)
    assert lookup.guess([*seen, *range(10, 16)]) == (16, 17)


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
