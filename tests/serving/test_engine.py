"""The engine: the same answer in any company, one final event, nothing leaked."""

import random
from typing import Any

import pytest
from driving import Answer, drive, make_engine, make_request, true_answer
from fake_executor import FakeExecutor, score
from fake_tokenizer import ByteTokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from yearling.core.errors import (
    CapacityError,
    ContextLengthError,
    EngineError,
    RequestError,
    UnsupportedError,
)
from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.executor import CacheShape
from yearling.serving.request import GenerationRequest, OutputEvent, SamplingParams


def some_prompts(number: int) -> list[list[int]]:
    """Prompts of odd lengths, many of which share long beginnings."""
    dice = random.Random(7)
    stems = [[dice.randrange(256) for _ in range(40)] for _ in range(3)]
    tails = [[dice.randrange(256) for _ in range(dice.randrange(1, 30))] for _ in range(number)]
    return [dice.choice(stems)[: dice.randrange(41)] + tail for tail in tails]


PROMPTS = some_prompts(40)
TRUE_ANSWERS = [true_answer(prompt, 20) for prompt in PROMPTS]


def answers(executor: FakeExecutor, **config: Any) -> tuple[list[list[int]], Engine]:
    engine = make_engine(executor, **config)
    requests = [make_request(prompt, max_tokens=20) for prompt in PROMPTS]
    return [answer.tokens for answer in drive(engine, *requests)], engine


@pytest.mark.promised("caching, batches, chunks and preemption change no token")
@pytest.mark.parametrize("use_prefix_cache", [True, False])
@pytest.mark.parametrize("max_sequences", [1, 8, 16])
@pytest.mark.parametrize("max_step_tokens", [16, 37, 512])
def test_answers_do_not_depend_on_batch_cache_or_chunks(
    use_prefix_cache: bool, max_sequences: int, max_step_tokens: int
) -> None:
    given_answers, engine = answers(
        FakeExecutor(),
        use_prefix_cache=use_prefix_cache,
        max_sequences=max_sequences,
        max_step_tokens=max_step_tokens,
    )
    assert given_answers == TRUE_ANSWERS
    assert (engine.stats().cache_hit_tokens > 0) == use_prefix_cache
    assert engine.stats().num_free_blocks == 512


def test_answers_survive_a_pool_of_eight_blocks() -> None:
    given_answers, engine = answers(FakeExecutor(num_blocks=8))
    assert given_answers == TRUE_ANSWERS
    assert engine.stats().num_preemptions > 0
    assert engine.stats().num_free_blocks == 8


def test_answers_survive_few_logit_rows() -> None:
    given_answers, _ = answers(FakeExecutor(num_blocks=12, max_step_tokens=24, max_logit_rows=3))
    assert given_answers == TRUE_ANSWERS


def test_second_turn_reuses_prompt_and_answer_of_the_first() -> None:
    engine = make_engine()
    (first,) = drive(engine, make_request(range(100), max_tokens=60))
    (second,) = drive(engine, make_request([*range(100), *first.tokens, 1, 2]))
    assert second.final.usage is not None
    assert second.final.usage.cached_tokens == 144  # 159 computed, in full blocks of 16
    assert second.tokens == true_answer([*range(100), *first.tokens, 1, 2], 16)


def test_accounts_do_not_share_a_prefix() -> None:
    engine = make_engine()
    drive(engine, make_request(range(100), salt="a"))
    same, other = (drive(engine, make_request(range(100), salt=salt))[0].final for salt in "ab")
    assert same.usage is not None
    assert other.usage is not None
    assert (same.usage.cached_tokens, other.usage.cached_tokens) == (96, 0)


def test_seed_decides_and_a_fresh_one_is_drawn_without_it() -> None:
    def sample(seed: int | None) -> list[int]:
        request = make_request([1, 2, 3], temperature=1.0, seed=seed)
        return drive(make_engine(), request)[0].tokens

    assert sample(5) == sample(5)
    assert sample(-1) != sample(5)
    assert sample(None) != sample(None)


def test_final_event_tells_why_and_what_it_took() -> None:
    (answer,) = drive(make_engine(), make_request(range(20), max_tokens=5))
    assert answer.final.finish_reason == "length"
    assert answer.final.usage is not None
    assert (answer.final.usage.prompt_tokens, answer.final.usage.completion_tokens) == (20, 5)
    assert [event.usage for event in answer.events[:-1]] == [None] * 4


def test_eos_and_stop_ids_end_an_answer() -> None:
    tokens = true_answer([9], 16)
    (answer,) = drive(make_engine(), make_request([9], stop_token_ids=(tokens[3],)))
    assert (answer.tokens, answer.final.finish_reason) == (tokens[:4], "stop")
    engine = Engine(FakeExecutor(), None, context=100, eos_token_ids=(tokens[5],))
    (answer,) = drive(engine, make_request([9]))
    assert (answer.tokens, answer.final.finish_reason) == (tokens[:6], "stop")


def test_stop_string_ends_an_answer_before_it() -> None:
    class Letters(FakeExecutor):
        def _run(self, part: Any) -> Any:
            output = super()._run(part)
            letter = b"abcdef"[part.start + len(part.tokens) - 1 : part.start + len(part.tokens)]
            object.__setattr__(output.sample, "token", letter[0])
            return output

    (answer,) = drive(make_engine(Letters()), make_request([1], stop="cd"))
    assert (answer.text, answer.final.finish_reason) == ("ab", "stop")
    assert answer.tokens == list(b"abcd")


def test_stop_string_that_is_a_control_token_ends_by_its_id() -> None:
    class Turns(FakeExecutor):
        def _run(self, part: Any) -> Any:
            output = super()._run(part)
            object.__setattr__(output.sample, "token", 257)
            return output

    (answer,) = drive(make_engine(Turns()), make_request([1], stop="<turn>"))
    assert (answer.tokens, answer.text, answer.final.finish_reason) == ([257], "", "stop")


def test_text_is_what_the_tokens_say() -> None:
    for answer in drive(make_engine(), *(make_request(prompt) for prompt in PROMPTS[:8])):
        assert answer.text == bytes(answer.tokens).decode(errors="replace")


def test_logprobs_come_one_per_token_only_when_asked() -> None:
    with_scores, without = drive(
        make_engine(), make_request([1, 2], logprobs=0), make_request([1, 2])
    )
    scores = [item for event in with_scores.events for item in event.logprobs]
    assert [item.token for item in scores] == with_scores.tokens
    assert scores[0].logprob == score([1, 2], with_scores.tokens[0])
    assert all(event.logprobs == () for event in without.events)


@pytest.mark.parametrize("max_logit_rows", [1, 7, 512])
@pytest.mark.parametrize("num_prompt", [1, 2, 50])
def test_prompt_scores_cover_every_token_but_the_first(
    num_prompt: int, max_logit_rows: int
) -> None:
    prompt = [index * 7 % 256 for index in range(num_prompt)]
    engine = make_engine(FakeExecutor(max_logit_rows=max_logit_rows))
    drive(engine, make_request(prompt))  # its blocks must not be reused
    (answer,) = drive(engine, make_request(prompt, prompt_logprobs=0))
    scores = [event.prompt_score for event in answer.events if event.prompt_score is not None]
    assert len(scores) == 1
    assert scores[0].tokens[0] is None
    assert [(item.token, item.logprob) for item in scores[0].tokens[1:] if item] == [
        (prompt[index], score(prompt[:index], prompt[index])) for index in range(1, num_prompt)
    ]
    assert answer.tokens == true_answer(prompt, 16)


def test_prompt_scores_survive_preemption() -> None:
    engine = make_engine(FakeExecutor(num_blocks=8, max_logit_rows=20))
    requests = [make_request(prompt, max_tokens=40) for prompt in PROMPTS[:3]]
    requests += [make_request(range(60), prompt_logprobs=0, max_tokens=3) for _ in range(3)]
    for answer in drive(engine, *requests)[3:]:
        (event,) = [event for event in answer.events if event.prompt_score is not None]
        assert event.prompt_score is not None
        assert len(event.prompt_score.tokens) == 60
    assert engine.stats().num_preemptions > 0


@pytest.mark.parametrize(("num_prompt", "prompt_logprobs"), [(1, 0), (1, None), (9, 0), (9, None)])
def test_prompt_only_request_generates_nothing(
    num_prompt: int, prompt_logprobs: int | None
) -> None:
    params = SamplingParams(prompt_logprobs=prompt_logprobs)
    request = GenerationRequest("r", list(range(num_prompt)), params, is_prompt_only=True)
    (answer,) = drive(make_engine(), request)
    assert (answer.tokens, answer.final.finish_reason) == ([], "length")
    assert (answer.final.prompt_score is not None) == (prompt_logprobs is not None)


def test_answer_fills_the_context_when_no_length_is_asked() -> None:
    (answer,) = drive(make_engine(context=50), make_request(range(20), max_tokens=None))
    assert answer.tokens == true_answer(range(20), 30)
    small = make_engine(FakeExecutor(num_blocks=2))  # the cache is smaller than the window
    (answer,) = drive(small, make_request(range(20), max_tokens=None))
    assert len(answer.tokens) == 12


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (make_request([]), RequestError, "the prompt is empty"),
        (make_request([1, 258]), RequestError, "prompt holds token id 258.*from 0 to 257"),
        (make_request([-1]), RequestError, "token id -1"),
        (make_request([1], logit_bias={300: 1.0}), RequestError, "logit_bias holds token id 300"),
        (make_request(range(50)), ContextLengthError, "the prompt has 50 tokens.*may have 50"),
        (make_request(range(40)), ContextLengthError, "max_tokens=16, together 56.*at most 10"),
    ],
)
def test_request_that_can_never_be_served_is_refused_at_once(
    request_: GenerationRequest, error: type[Exception], message: str
) -> None:
    engine = make_engine(context=50)
    with pytest.raises(error, match=message):
        engine.add(request_)
    assert not engine.has_work


def test_prompt_larger_than_the_cache_is_refused() -> None:
    with pytest.raises(ContextLengthError, match="together may have 32"):
        make_engine(FakeExecutor(num_blocks=2)).add(make_request(range(32), max_tokens=1))


def test_stop_strings_without_a_tokenizer_are_refused() -> None:
    engine = Engine(FakeExecutor(), None, context=100, eos_token_ids=())
    with pytest.raises(RequestError, match="use stop_token_ids"):
        engine.add(make_request([1], stop="x"))


def test_same_id_twice_is_refused() -> None:
    engine = make_engine()
    request = make_request([1])
    engine.add(request)
    with pytest.raises(RequestError, match="already running"):
        engine.add(request)


def test_full_queue_is_refused_and_takes_more_later() -> None:
    engine = make_engine(max_sequences=2, max_waiting=3)
    for _ in range(5):
        engine.add(make_request([1]))
    with pytest.raises(CapacityError, match="5 requests are running or waiting"):
        engine.add(make_request([1]))
    while engine.has_work:
        engine.step()
    engine.add(make_request([1]))


def test_cancel_frees_blocks_at_once_and_tells_once() -> None:
    engine = make_engine()
    running, queued = make_request(range(100)), make_request(range(100))
    engine.add(running)
    engine.step()
    engine.add(queued)
    for request in (running, queued, running):
        engine.cancel(request.request_id)
    engine.cancel("never heard of")
    assert engine.stats().num_free_blocks == 512
    assert [event.finish_reason for event in engine.step()] == ["cancelled", "cancelled"]
    assert not engine.has_work


def test_executor_failure_ends_every_request_and_the_engine() -> None:
    engine = make_engine(FakeExecutor(fail_on_call=11), max_sequences=2)
    requests = [make_request([index], max_tokens=50) for index in range(3)]
    for answer in drive(engine, *requests):
        assert answer.final.finish_reason == "error"
        assert answer.final.error == "the engine failed: RuntimeError: injected failure"
    assert engine.stats().num_free_blocks == 512
    with pytest.raises(EngineError, match="injected failure"):
        engine.add(make_request([1]))


def test_bad_logits_end_one_request_and_leave_the_others() -> None:
    engine = make_engine(FakeExecutor(bad_token=255, vocabulary=255))
    good, bad = drive(engine, make_request([1, 2]), make_request([1, 255]))
    assert (bad.final.finish_reason, bad.final.error) == ("error", "the logits are not finite")
    assert good.tokens == true_answer([1, 2], 16, vocabulary=255)
    assert engine.stats().num_free_blocks == 512


def test_blocks_of_a_failed_step_are_not_shared() -> None:
    engine = make_engine(FakeExecutor(bad_token=255))
    prompt = [255] * 40
    for _ in range(2):
        (answer,) = drive(engine, make_request(prompt))
        assert answer.final.usage is not None
        assert answer.final.usage.cached_tokens == 0


def test_history_is_passed_only_with_penalties() -> None:
    seen = []

    class Watching(FakeExecutor):
        def execute(self, step: Any) -> Any:
            seen.extend((list(part.sample.history), part.sample.num_generated) for part in step)
            return super().execute(step)

    tokens = true_answer([5, 6], 2)
    drive(make_engine(Watching()), make_request([5, 6], max_tokens=2, presence_penalty=1.0))
    assert seen == [([5, 6], 0), ([5, 6, tokens[0]], 1)]
    seen.clear()
    drive(make_engine(Watching()), make_request([5, 6], max_tokens=1))
    assert seen == [([], 0)]


def test_sampling_is_passed_on_with_a_counter_that_preemption_does_not_reset() -> None:
    seen: dict[int, list[int]] = {}

    class Watching(FakeExecutor):
        def execute(self, step: Any) -> Any:
            for part in step:
                if part.sample is not None:
                    seen.setdefault(part.sample.seed, []).append(part.sample.output_index)
                    assert (part.sample.temperature, part.sample.top_k) == (0.5, 3)
                    assert part.sample.logit_bias == ((4, 1.5),)
            return super().execute(step)

    engine = make_engine(Watching(num_blocks=5))
    options = {"temperature": 0.5, "top_k": 3, "logit_bias": {4: 1.5}, "max_tokens": 40}
    drive(engine, *(make_request([1] * 30, seed=seed, **options) for seed in range(3)))
    assert engine.stats().num_preemptions > 0
    assert seen == {seed: list(range(40)) for seed in range(3)}


def test_stats_add_up() -> None:
    engine = make_engine()
    drive(engine, make_request(range(64)))
    drive(engine, make_request(range(64)))
    stats = engine.stats()
    assert (stats.prompt_tokens, stats.generated_tokens) == (128, 32)
    assert (stats.cache_query_tokens, stats.cache_hit_tokens) == (128, 48)
    assert stats.num_steps == 32
    assert stats.step_seconds > stats.executor_seconds > 0


def test_config_refuses_unknown_fields() -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        EngineConfig(max_batch=4)  # type: ignore[call-arg]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 90),  # prompt tokens
            st.integers(1, 30),  # answer tokens
            st.integers(0, 40),  # step at which it arrives
            st.one_of(st.none(), st.integers(0, 40)),  # step at which it is cancelled
            st.sampled_from([None, None, None, 0]),  # prompt scores
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(9, 20),
    st.one_of(st.none(), st.integers(1, 60)),
)
def test_every_request_gets_exactly_one_final_event(
    plans: list[tuple[int, int, int, int | None, int | None]],
    num_blocks: int,
    fail_on_call: int | None,
) -> None:
    executor = FakeExecutor(
        num_blocks, bad_token=255, fail_on_call=fail_on_call, max_step_tokens=48, max_logit_rows=16
    )
    engine = make_engine(executor)
    requests = [
        make_request(range(num_prompt), max_tokens=num_answer, prompt_logprobs=scores)
        for num_prompt, num_answer, _, _, scores in plans
    ]
    events: list[OutputEvent] = []
    admitted = set()
    for now in range(3000):
        for request, (_, _, arrival, leaving, _) in zip(requests, plans, strict=True):
            if arrival == now and engine.error is None:
                engine.add(request)
                admitted.add(request.request_id)
            if leaving == now:
                engine.cancel(request.request_id)
        if now > 41 and not engine.has_work:
            break
        events.extend(engine.step())
    assert not engine.has_work
    for request in requests:
        answer = Answer([event for event in events if event.request_id == request.request_id])
        if request.request_id not in admitted:
            assert answer.events == []
            continue
        true = true_answer(request.prompt, len(answer.tokens))
        assert answer.final.finish_reason in ("length", "cancelled", "error", "stop")
        assert answer.tokens == true
    assert engine.stats().num_free_blocks == num_blocks


SHAPES: dict[str, list[CacheShape]] = {
    "window": [CacheShape("window", 24, 33)],
    "mixed": [CacheShape("full", 12), CacheShape("window", 20, 20), CacheShape("window", 20, 48)],
    "state": [CacheShape("state", 5)],
    "hybrid": [CacheShape("full", 10), CacheShape("window", 20, 7), CacheShape("state", 3)],
    "prefix": [CacheShape("full", 10)],
}


def executor_of(kind: str, **options: Any) -> FakeExecutor:
    return FakeExecutor(
        shapes=SHAPES[kind],
        needs_whole_prompt=kind == "prefix",
        can_share_prefixes=kind in ("window", "mixed"),
        **options,
    )


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("max_step_tokens", [72, 512])
def test_answers_are_right_in_every_kind_of_cache(kind: str, max_step_tokens: int) -> None:
    executor = executor_of(kind)
    given_answers, engine = answers(executor, max_step_tokens=max_step_tokens, max_sequences=16)
    assert given_answers == [executor.true_answer(prompt, 20) for prompt in PROMPTS]
    stats = engine.stats()
    assert (stats.num_preemptions > 0) == (kind != "state")
    assert (stats.cache_hit_tokens > 0) == (kind in ("window", "mixed"))
    assert stats.num_free_blocks == stats.num_blocks


@pytest.mark.parametrize("kind", ["window", "mixed", "state", "hybrid"])
def test_prompt_scores_are_right_in_every_kind_of_cache(kind: str) -> None:
    prompt = [index * 7 % 256 for index in range(60)]
    executor = executor_of(kind, max_logit_rows=25)
    engine = make_engine(executor)
    answer, other = drive(
        engine, make_request(prompt, prompt_logprobs=0), make_request(prompt, max_tokens=30)
    )
    (event,) = [event for event in answer.events if event.prompt_score is not None]
    assert event.prompt_score is not None
    assert len(event.prompt_score.tokens) == 60
    assert answer.tokens == executor.true_answer(prompt, 16)
    assert other.tokens == executor.true_answer(prompt, 30)


def test_prefix_of_a_window_model_is_found_after_its_head_is_gone() -> None:
    executor = FakeExecutor(shapes=[CacheShape("window", 9, 33)], max_step_tokens=64)
    engine = make_engine(executor)
    prompt = [index * 7 % 256 for index in range(200)]
    (first,) = drive(engine, make_request(prompt))
    (second,) = drive(engine, make_request([*prompt, *first.tokens, 1]))
    assert second.final.usage is not None
    assert second.final.usage.cached_tokens == 208  # of 215 computed, in full blocks
    assert second.tokens == executor.true_answer([*prompt, *first.tokens, 1], 16)


def test_window_sets_no_bound_on_the_length() -> None:
    executor = FakeExecutor(shapes=[CacheShape("window", 6, 33)], max_step_tokens=64)
    (answer,) = drive(make_engine(executor), make_request(range(250), max_tokens=400))
    assert answer.tokens == executor.true_answer(range(250), 400)


def test_window_that_does_not_fit_its_blocks_bounds_the_length() -> None:
    engine = make_engine(FakeExecutor(shapes=[CacheShape("window", 2, 33)]))
    assert engine.limits.context == 32
    (answer,) = drive(engine, make_request(range(20), max_tokens=None))
    assert len(answer.tokens) == 12


def test_stats_count_full_groups_or_else_what_there_is() -> None:
    assert make_engine(executor_of("mixed")).stats().num_blocks == 12
    assert make_engine(executor_of("window")).stats().num_blocks == 24
    assert make_engine(executor_of("state")).stats().num_free_blocks == 5


def test_prompt_that_no_step_holds_whole_is_refused() -> None:
    engine = make_engine(executor_of("prefix", max_step_tokens=30))
    with pytest.raises(ContextLengthError, match=r"31 tokens.*one step, which holds 30.*larger"):
        engine.add(make_request(range(31), max_tokens=1))
    (answer,) = drive(engine, make_request(range(30), max_tokens=40))
    assert len(answer.tokens) == 40


@pytest.mark.parametrize("is_prompt_only", [True, False])
def test_prompt_scores_of_a_prefix_model_are_refused_by_name(is_prompt_only: bool) -> None:
    params = SamplingParams(prompt_logprobs=None if is_prompt_only else 0)
    request = GenerationRequest("r", [1, 2], params, is_prompt_only=is_prompt_only)
    with pytest.raises(UnsupportedError, match=r"prefix mask.*prompt_logprobs"):
        make_engine(executor_of("prefix")).add(request)


def test_tokenizer_fake_agrees_with_itself() -> None:
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode("a<end>b", parse_special=True)
    assert (ids, tokenizer.decode(ids)) == ([97, 256, 98], "ab")


def test_no_token_ends_an_answer_before_its_least_length() -> None:
    """The fake model has no logits, so that what is asked of a real one is looked at."""
    end = TRUE_ANSWERS[0][3]
    early, late = (
        make_request(PROMPTS[0], max_tokens=12, stop_token_ids=[end], min_tokens=least)
        for least in (0, 9)
    )
    executor = FakeExecutor()
    seen: list[dict[int, float]] = []
    execute = executor.execute

    def noted(step: Any) -> Any:
        seen.extend(dict(part.sample.logit_bias) for part in step if part.sample is not None)
        return execute(step)

    executor.execute = noted  # type: ignore[method-assign]
    (answer,) = drive(make_engine(executor), early)
    assert answer.tokens == TRUE_ANSWERS[0][:4]
    assert not any(seen)
    seen.clear()
    drive(make_engine(executor), late)
    assert [end in bias and 256 in bias for bias in seen[:9]] == [True] * len(seen[:9])
    assert all(bias.get(end, -1e9) <= -1e9 for bias in seen[:9])
    assert not any(seen[9:])


def test_the_models_own_end_is_passed_over_when_asked() -> None:
    prompt = PROMPTS[1]
    end = TRUE_ANSWERS[1][2]
    engine = Engine(
        FakeExecutor(), ByteTokenizer(), context=4096, eos_token_ids=(end,), vocabulary=258
    )
    plain = make_request(prompt, max_tokens=8)
    on = make_request(prompt, max_tokens=8, ignore_eos=True)
    mine = make_request(prompt, max_tokens=8, ignore_eos=True, stop_token_ids=[TRUE_ANSWERS[1][5]])
    first, second, third = drive(engine, plain, on, mine)
    assert first.tokens == TRUE_ANSWERS[1][: first.tokens.index(end) + 1]
    assert (second.tokens, second.final.finish_reason) == (TRUE_ANSWERS[1][:8], "length")
    assert third.final.finish_reason == "stop"


@pytest.mark.parametrize(
    "sampling",
    [{"min_tokens": 5, "max_tokens": 4}, {"min_tokens": 1, "guide": {"regex": "a"}}],
)
def test_a_least_length_that_cannot_be_is_refused(sampling: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="min_tokens"):
        SamplingParams.model_validate(sampling)
