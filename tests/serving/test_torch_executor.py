"""The torch executor under the scheduler: chunks, company and preemption change nothing."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from driving import drive, make_request

from tests.models.tiny_files import write_folder
from tests.models.torch_variants import VARIANTS, attending, decoder, model
from yearling.core.errors import CapacityError, RequestError, UnsupportedError
from yearling.models.cache_layout import cache_layout
from yearling.models.checkpoint import open_checkpoint
from yearling.models.spec import ModelSpec, Pooling
from yearling.models.torch_decoder import Segments
from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.executor import GroupBlocks, SampleInput, SequenceInput
from yearling.serving.executors.torch import TorchExecutor

pytestmark = pytest.mark.slow

PROMPTS = [np.random.default_rng(n).integers(0, 50, n).tolist() for n in (3, 40, 17, 1, 29)]


def make_executor(spec: ModelSpec, *, num_blocks: int = 40, kv_type: str = "float32"):
    groups = cache_layout(spec).groups
    return TorchExecutor(
        decoder(spec),
        num_blocks=[6 if group.kind == "state" else num_blocks for group in groups],
        kv_type=kv_type,
        context=128,
        max_step_tokens=64,
        max_logit_rows=64,
        weights_version="tiny",
    )


def make_engine(executor: TorchExecutor, **config: int) -> Engine:
    return Engine(
        executor, None, context=128, eos_token_ids=(), config=EngineConfig(**config), vocabulary=50
    )


def true_answer(executor: TorchExecutor, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """What the model says, computed without any cache."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(executor.logits(tokens, len(prompt))[-1].argmax()))
    return tokens[len(prompt) :]


def score(executor: TorchExecutor, tokens: Sequence[int], sizes: Sequence[int]) -> list[float]:
    """Log-probabilities of each next token, computed in steps of these sizes."""
    groups = len(executor.cache_shapes)
    table = GroupBlocks([5, 2, 3, 9, 1])
    scores: list[float] = []
    for size in sizes:
        start = len(scores)
        targets = [*tokens[start + 1 : start + size + 1], 0][:size]
        part = SequenceInput(
            tokens[start : start + size], start, [table] * groups, 3, score_targets=targets
        )
        (output,) = executor.execute([part])
        scores.extend(entry.logprob for entry in output.scores if entry is not None)
    return scores


@pytest.mark.parametrize("name", VARIANTS)
def test_answers_equal_the_whole_model_in_any_company(name: str) -> None:
    executor = make_executor(VARIANTS[name])
    engine = make_engine(executor, max_step_tokens=48, max_sequences=4)
    requests = [make_request(prompt, max_tokens=12) for prompt in PROMPTS]
    given = [answer.tokens for answer in drive(engine, *requests)]
    assert given == [true_answer(executor, prompt, 12) for prompt in PROMPTS]


@pytest.mark.parametrize("name", ["plain", "window beside full", "mamba", "hybrid"])
def test_chunks_change_nothing(name: str) -> None:
    executor = make_executor(VARIANTS[name])
    tokens = np.random.default_rng(1).integers(0, 50, 70).tolist()
    expected = score(executor, tokens, [70])
    np.testing.assert_allclose(score(executor, tokens, [31, 1, 1, 17, 20]), expected, atol=1e-4)
    assert np.std(expected) > 0.1  # the model has something to say


@pytest.mark.parametrize("name", ["plain", "window beside full"])
def test_preempted_sequences_start_again_to_the_same_end(name: str) -> None:
    executor = make_executor(VARIANTS[name], num_blocks=5)
    engine = make_engine(executor, max_step_tokens=32, max_sequences=4)
    requests = [make_request(prompt, max_tokens=25) for prompt in PROMPTS]
    given = [answer.tokens for answer in drive(engine, *requests)]
    assert engine.stats().num_preemptions > 0
    assert given == [true_answer(executor, prompt, 25) for prompt in PROMPTS]


def test_seeds_decide_samples_whatever_the_batch() -> None:
    def sampled(max_sequences: int) -> list[list[int]]:
        engine = make_engine(make_executor(VARIANTS["plain"]), max_sequences=max_sequences)
        requests = [
            make_request(PROMPTS[2], max_tokens=10, temperature=2.0, top_p=0.95, seed=seed)
            for seed in (1, 2, 1)
        ]
        return [answer.tokens for answer in drive(engine, *requests)]

    alone, together = sampled(1), sampled(3)
    assert alone == together
    assert alone[0] == alone[2] != alone[1]


def test_half_cache_is_near_the_whole_one() -> None:
    tokens = np.random.default_rng(1).integers(0, 50, 40).tolist()
    exact = score(make_executor(VARIANTS["plain"]), tokens, [20, 20])
    half = score(make_executor(VARIANTS["plain"], kv_type="float16"), tokens, [20, 20])
    difference = np.abs(np.subtract(half, exact)).max()
    assert 0 < difference < 0.05


def test_alternatives_are_the_likeliest_of_the_models_own_distribution() -> None:
    executor = make_executor(VARIANTS["plain"])
    tokens = PROMPTS[2]
    sample = SampleInput(
        0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, seed=0, output_index=0,
        logit_bias=((7, 100.0),), num_logprobs=3,
    )  # fmt: skip
    step = [SequenceInput(tokens, 0, [GroupBlocks([1, 2])], len(tokens), sample)]
    (output,) = executor.execute(step)
    logprobs = torch.from_numpy(executor.logits(tokens)[-1]).double().log_softmax(-1)
    assert output.sample is not None
    assert output.sample.token == 7  # by its bias, which does not count below
    assert output.sample.logprob == pytest.approx(float(logprobs[7]), abs=1e-5)
    best = logprobs.topk(3)
    assert [token for token, _ in output.sample.top] == best.indices.tolist()
    np.testing.assert_allclose([p for _, p in output.sample.top], best.values, atol=1e-5)


def test_broken_weights_are_told_and_spare_nobody_else() -> None:
    executor = make_executor(VARIANTS["plain"])
    with torch.no_grad():
        executor._decoder.get_parameter("embedding.weight")[9] = torch.nan
    greedy = SampleInput(0.0, 0, 1.0, 0.0, 1.0, 0.0, 0.0, seed=0, output_index=0)
    steps = [
        SequenceInput([9, 3], 0, [GroupBlocks([1])], 2, greedy),
        SequenceInput([4, 3], 0, [GroupBlocks([2])], 2, greedy),
    ]
    broken, fine = executor.execute(steps)
    assert "not finite" in (broken.error or "")
    assert fine.error is None
    assert fine.sample is not None


def test_encoder_embeds_many_sequences_as_one_by_one() -> None:
    spec = model(attending(mask="bidirectional"), head=Pooling())
    executor = make_executor(spec)
    assert make_engine(TorchExecutor(
        decoder(spec), num_blocks=[], kv_type="float32", context=128, max_step_tokens=64,
        max_logit_rows=64, weights_version="tiny",
    )).limits.can_generate is False  # fmt: skip
    together = executor.embed(PROMPTS)
    assert together.shape == (5, 32)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for vector, prompt in zip(together, PROMPTS, strict=True):
        np.testing.assert_allclose(executor.embed([prompt])[0], vector, atol=1e-5)
    with pytest.raises(UnsupportedError, match="gives vectors"):
        executor.logits([1])
    with pytest.raises(UnsupportedError, match="gives logits"):
        make_executor(VARIANTS["plain"]).embed([[1]])


def test_logits_refuse_what_does_not_fit() -> None:
    executor = make_executor(VARIANTS["plain"])
    with pytest.raises(RequestError, match="0 tokens given; 1 to 128 fit"):
        executor.logits([])
    with pytest.raises(RequestError, match="token id 50 is outside the vocabulary of 50"):
        executor.logits([3, 50])


def test_prompt_decides_what_a_prefix_mask_shows() -> None:
    spec = VARIANTS["prefix"]
    executor, tokens = make_executor(spec), PROMPTS[2]
    with torch.no_grad():
        ours = decoder(spec)
        hidden = ours(torch.tensor(tokens), Segments([17], prefixes=[9]))
        expected = ours.logits(hidden).numpy()
    np.testing.assert_allclose(executor.logits(tokens, 10), expected, atol=1e-5)
    assert not np.allclose(executor.logits(tokens, 5), expected, atol=1e-2)


def test_load_sizes_the_cache_and_names_what_it_cannot_do(tmp_path) -> None:
    checkpoint = open_checkpoint(write_folder(tmp_path / "model"))
    block = 2 * 2 * 8 * 16 * 4  # keys and values, 2 heads of 8, 16 tokens, float32
    executor = TorchExecutor.load(checkpoint, cache_bytes=7 * block)
    assert [(s.kind, s.num_blocks) for s in executor.cache_shapes] == [("full", 7)]
    assert executor.kv_type == "float32"
    assert executor.logits([1, 2, 3]).shape == (3, 4)
    half = TorchExecutor.load(checkpoint, weights="float16", cache_bytes=7 * block)
    assert (half.kv_type, half.cache_shapes[0].num_blocks) == ("float16", 14)
    assert half.weight_bytes * 2 == executor.weight_bytes
    assert half.weights_version != executor.weights_version
    with pytest.raises(CapacityError, match="give more cache_bytes"):
        TorchExecutor.load(checkpoint, cache_bytes=block - 1)
    with pytest.raises(UnsupportedError, match="int4 weights"):
        TorchExecutor.load(checkpoint, weights="int4")
