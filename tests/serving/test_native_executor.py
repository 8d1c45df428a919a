"""The native executor under the engine: the same answers whatever kind of cache a model has.

The truth is the executor's own `logits` of a sequence alone; tests/parity holds that to others.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from driving import drive, make_request

from tests.parity.case import find_cases
from tests.parity.executors import WithSpec
from yearling.core.errors import RequestError, UnsupportedError
from yearling.models.checkpoint import Checkpoint, open_checkpoint
from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.executors.native import NativeExecutor

pytestmark = pytest.mark.filterwarnings("default")

FAMILIES = {
    "mistral": ("window", ["window"]),
    "gemma3": (None, ["window", "full"]),
    "mamba": ("plain", ["state"]),
    "chatglm": (None, ["full"]),
}
PROMPTS = [[7 + (3 * index + 5 * number) % 80 for index in range(number)] for number in (1, 14, 33)]
NUM_ANSWER = 20


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """One tiny random model of each kind of cache."""
    cases, made = find_cases(), {}
    for family, (variant, _) in FAMILIES.items():
        case, folder = cases[family], tmp_path_factory.mktemp(family) / "model"
        variant = variant or next(iter(case.variants))
        case.oracle.make(folder, {**case.config, **case.variants[variant]})
        checkpoint = open_checkpoint(folder)
        made[family] = WithSpec(checkpoint, checkpoint.spec, 64)
    return made


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def load(checkpoint: Checkpoint, **options: object) -> NativeExecutor:
    return NativeExecutor.load(checkpoint, weights="float32", threads=1, **options)  # type: ignore[arg-type]


def greedy(executor: NativeExecutor, prompt: Sequence[int], num_tokens: int) -> list[int]:
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(executor.logits(tokens, len(prompt))[-1].argmax()))
    return tokens[len(prompt) :]


def answers(executor: NativeExecutor, **config: object) -> tuple[list[list[int]], Engine]:
    engine = Engine(
        executor, None, context=64, eos_token_ids=(), config=EngineConfig.model_validate(config)
    )
    requests = [make_request(prompt, max_tokens=NUM_ANSWER) for prompt in PROMPTS]
    return [answer.tokens for answer in drive(engine, *requests)], engine


def test_cache_groups_are_those_of_the_model(tiny: dict[str, Checkpoint], family: str) -> None:
    executor = load(tiny[family])
    assert sorted(shape.kind for shape in executor.cache_shapes) == sorted(FAMILIES[family][1])
    assert executor.needs_whole_prompt == (family == "chatglm")
    assert executor.can_share_prefixes == (family in ("mistral", "gemma3"))


@pytest.mark.promised("caching, batches, chunks and preemption change no token")
@pytest.mark.parametrize("max_step_tokens", [33, 512])
def test_engine_says_what_each_sequence_says_alone(
    tiny: dict[str, Checkpoint], family: str, max_step_tokens: int
) -> None:
    executor = load(tiny[family])
    expected = [greedy(executor, prompt, NUM_ANSWER) for prompt in PROMPTS]
    given, engine = answers(executor, max_step_tokens=max_step_tokens)
    assert given == expected
    again, _ = answers(executor, use_prefix_cache=False)
    assert again == expected
    assert engine.stats().num_free_blocks == engine.stats().num_blocks


def test_engine_says_the_same_in_a_cache_that_is_too_small(
    tiny: dict[str, Checkpoint], family: str
) -> None:
    checkpoint = tiny[family]
    roomy, small = load(checkpoint), load(checkpoint, max_sequences=2, max_step_tokens=40)
    object.__setattr__(small, "cache_shapes", tuple(map(_shrunk, small.cache_shapes)))
    given, engine = answers(small)
    assert given == answers(roomy)[0]
    if family in ("gemma3", "chatglm"):
        assert engine.stats().num_preemptions > 0


def _shrunk(shape):  # type: ignore[no-untyped-def]
    from dataclasses import replace

    return replace(shape, num_blocks={"full": 5, "window": 5, "state": 2}[shape.kind])


def test_logits_leave_running_sequences_alone(tiny: dict[str, Checkpoint], family: str) -> None:
    executor = load(tiny[family])
    expected, _ = answers(executor)
    engine = Engine(executor, None, context=64, eos_token_ids=())
    requests = [make_request(prompt, max_tokens=NUM_ANSWER) for prompt in PROMPTS]
    for request in requests:
        engine.add(request)
    tokens: dict[str, list[int]] = {request.request_id: [] for request in requests}
    while engine.has_work:
        for event in engine.step():
            tokens[event.request_id].extend(event.tokens)
        executor.logits(list(range(5, 45)), 17)
    assert list(tokens.values()) == expected


def test_logits_take_the_prompt_into_account(tiny: dict[str, Checkpoint]) -> None:
    ids = list(range(5, 45))
    prefix, causal = load(tiny["chatglm"]), load(tiny["mistral"])
    assert np.abs(prefix.logits(ids) - prefix.logits(ids, 10)).max() > 1e-3
    np.testing.assert_array_equal(prefix.logits(ids), prefix.logits(ids, len(ids)))
    np.testing.assert_array_equal(causal.logits(ids), causal.logits(ids, 10))


def test_logits_of_a_whole_prompt_may_have_more_rows_than_a_step(
    tiny: dict[str, Checkpoint],
) -> None:
    ids = [5 + index % 80 for index in range(64)]
    executor = load(tiny["chatglm"])
    expected = executor.logits(ids, 60)
    executor.max_logit_rows = 7  # the program has room for more
    np.testing.assert_array_equal(executor.logits(ids, 60), expected)


def test_prompt_that_must_be_whole_has_room_in_a_step(tiny: dict[str, Checkpoint]) -> None:
    executor = load(tiny["chatglm"], max_step_tokens=16)
    assert executor.max_step_tokens == executor.context
    ids = list(range(5, 45))
    expected = load(tiny["chatglm"]).logits(ids)
    np.testing.assert_array_equal(executor.logits(ids), expected)


def test_decoder_has_no_vectors(tiny: dict[str, Checkpoint]) -> None:
    with pytest.raises(UnsupportedError, match="'mistral' gives logits, not vectors"):
        load(tiny["mistral"]).embed([[1]])


@pytest.fixture(scope="module")
def encoder(minilm_path: Path) -> Iterator[NativeExecutor]:
    executor = NativeExecutor.load(open_checkpoint(minilm_path), max_step_tokens=64, threads=1)
    yield executor
    executor.close()


def test_vectors_do_not_depend_on_company_or_order(encoder: NativeExecutor) -> None:
    texts = [[101, *range(2000, 2000 + length), 102] for length in (3, 40, 1, 200, 7, 31, 254)]
    together = encoder.embed(texts)
    assert together.shape == (7, 384)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, rtol=1e-5)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_array_equal(encoder.embed([text])[0], vector)
    many = [texts[index % 3] for index in range(300)]  # more texts than a step has rows
    np.testing.assert_array_equal(encoder.embed(many)[:3], together[:3])
    assert encoder.embed([]).shape == (0, 384)


def test_encoder_has_neither_logits_nor_a_cache(encoder: NativeExecutor) -> None:
    assert encoder.cache_shapes == ()
    assert encoder.max_step_tokens == encoder.context == 256  # a text is never cut
    with pytest.raises(UnsupportedError, match="'bert' gives vectors, not logits"):
        encoder.logits([1])
    with pytest.raises(UnsupportedError, match=r"is an encoder.*ask it for embeddings"):
        Engine(encoder, None, context=64, eos_token_ids=()).add(make_request([1]))


@pytest.mark.parametrize("text", [[], [0] * 257, [30522], [-1]])
def test_encoder_refuses_what_it_cannot_read(encoder: NativeExecutor, text: list[int]) -> None:
    with pytest.raises(RequestError):
        encoder.embed([[101, 102], text])
