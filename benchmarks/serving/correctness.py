"""`yearling bench correctness`: are the answers right, and do they depend on company?

Two questions. First, over a real English or Chinese text: perplexity and greedy tokens of the
engine, run as it serves (scheduler, chunks, paged cache), against transformers in fp32 over the
same weights, de-quantised by transformers' own GGUF reader. Second, with the real executor: are
greedy tokens equal alone and in a batch of 32, with and without prefix reuse, chunked or not,
preempted or not?
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.reference_scores import reference_scores
from benchmarks.serving.workload import Language, text_in
from yearling.core.errors import EngineError
from yearling.models.checkpoint import Checkpoint, open_checkpoint
from yearling.serving.engine import Engine, EngineConfig, EngineStats
from yearling.serving.executors.native import NativeExecutor
from yearling.serving.request import GenerationRequest, OutputEvent, SamplingParams

if TYPE_CHECKING:
    from yearling.serving.executor import Executor

__all__ = [
    "Agreement",
    "CorrectnessReport",
    "Identity",
    "Limits",
    "TextScores",
    "compare",
    "engine_scores",
    "greedy_identity",
    "run",
    "text_tokens",
]

Weights = Literal["auto", "float32"]
Progress = Callable[[str], None]

_NEW_TOKENS = 24
_NUM_PROMPTS = 32
_SHARED_TOKENS = 48
_FEW_BLOCKS = 24


@dataclass(frozen=True, slots=True)
class TextScores:
    """How a model reads a text.

    Attributes:
        logprobs: Of each token but the first, in nats.
        greedy: The token the model would have chosen in its place.
    """

    logprobs: NDArray[np.float64]
    greedy: NDArray[np.int64]

    @property
    def perplexity(self) -> float:
        """Exponential of the mean negative log-probability."""
        return math.exp(-float(self.logprobs.mean()))


@dataclass(frozen=True, slots=True)
class Limits:
    """What counts as right.

    Attributes:
        perplexity: Relative difference allowed.
        greedy: Share of positions where the greedy tokens must agree.
    """

    perplexity: float
    greedy: float


# 8-bit activations alone cost 0.01 % of perplexity and 2.6 % of the greedy tokens.
_LIMITS: Mapping[Weights, Limits] = {
    "auto": Limits(perplexity=0.002, greedy=0.96),
    "float32": Limits(perplexity=0.002, greedy=0.999),
}


@dataclass(frozen=True, slots=True)
class Agreement:
    """Ours against the reference over one text."""

    weights: Weights
    num_tokens: int
    perplexity: float
    reference_perplexity: float
    greedy_share: float

    @property
    def perplexity_difference(self) -> float:
        """Relative, positive when ours is worse."""
        return self.perplexity / self.reference_perplexity - 1.0

    @property
    def has_passed(self) -> bool:
        """Whether both limits hold."""
        limits = _LIMITS[self.weights]
        return (
            abs(self.perplexity_difference) <= limits.perplexity
            and self.greedy_share >= limits.greedy
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """Whether answers are the same as those given alone.

    Attributes:
        name: What was different from running alone.
        num_prompts: Prompts compared.
        num_different: Those whose tokens differ.
        evidence: That the difference really took place, for example the preemptions counted.
        took_place: False when the run never did what it is named for.
    """

    name: str
    num_prompts: int
    num_different: int
    evidence: str
    took_place: bool

    @property
    def has_passed(self) -> bool:
        """Whether it took place and changed nothing."""
        return self.took_place and self.num_different == 0


@dataclass(frozen=True, slots=True)
class CorrectnessReport:
    """All figures of one run."""

    agreements: Sequence[Agreement]
    identities: Sequence[Identity] = field(default_factory=tuple)

    @property
    def has_passed(self) -> bool:
        """Whether everything holds."""
        parts: list[Agreement | Identity] = [*self.agreements, *self.identities]
        return all(part.has_passed for part in parts)

    def as_json(self) -> dict[str, Any]:
        """Give every figure and verdict."""
        return {
            "agreement": [
                {
                    **asdict(part),
                    "perplexity_difference": part.perplexity_difference,
                    "has_passed": part.has_passed,
                }
                for part in self.agreements
            ],
            "identity": [
                {**asdict(part), "has_passed": part.has_passed} for part in self.identities
            ],
            "has_passed": self.has_passed,
        }

    def as_text(self) -> str:
        """Give one line per check."""
        lines = []
        for part in self.agreements:
            limits = _LIMITS[part.weights]
            lines.append(
                f"{_verdict(part.has_passed)} weights={part.weights}, {part.num_tokens} tokens: "
                f"perplexity {part.perplexity:.4f}, transformers fp32 "
                f"{part.reference_perplexity:.4f} ({part.perplexity_difference:+.3%}, limit "
                f"±{limits.perplexity:.1%}); greedy tokens agree on {part.greedy_share:.2%} "
                f"(limit {limits.greedy:.1%})"
            )
        lines.extend(
            f"{_verdict(check.has_passed)} greedy tokens {check.name}: {check.num_different} of "
            f"{check.num_prompts} answers differ from those given alone; {check.evidence}"
            for check in self.identities
        )
        return "\n".join(lines)


def run(
    model: str, num_tokens: int, progress: Progress, language: Language = "english"
) -> CorrectnessReport:
    """Score a text with both weight types, then compare greedy answers in company.

    Raises:
        ModelNotFoundError: nothing of that name is there.
    """
    from yearling.models.store import resolve

    checkpoint = open_checkpoint(resolve(model))
    tokens = text_tokens(checkpoint, num_tokens, language)
    progress("transformers, fp32")
    reference = TextScores(*reference_scores(checkpoint.path, tokens))
    agreements = []
    for weights in _LIMITS:
        progress(f"yearling, weights={weights}")
        ours = engine_scores(checkpoint, tokens, weights)
        agreements.append(compare(ours, reference, weights))
    progress("greedy answers in company")
    return CorrectnessReport(agreements, greedy_identity(checkpoint))


def text_tokens(checkpoint: Checkpoint, count: int, language: Language = "english") -> list[int]:
    """Tokenise the beginning of a text; the Chinese one has fewer than 1,500 tokens."""
    tokenizer = checkpoint.tokenizer()
    assert tokenizer is not None, "the oracle needs a model with a tokenizer"
    text = text_in(language)[: count * 8]
    return tokenizer.encode(text, add_bos=tokenizer.adds_bos)[:count]


def engine_scores(checkpoint: Checkpoint, tokens: Sequence[int], weights: Weights) -> TextScores:
    """Score a text with our engine, as a request for prompt log-probabilities is served."""
    executor = NativeExecutor.load(checkpoint, weights=weights)
    try:
        engine = Engine(executor, None, context=len(tokens) + 1, eos_token_ids=())
        request = GenerationRequest(
            "text", tokens, SamplingParams(prompt_logprobs=1), is_prompt_only=True
        )
        score = _finish(engine, [request])["text"].prompt_score
    finally:
        executor.close()
    assert score is not None, "prompt log-probabilities were asked for"
    scored = [token for token in score.tokens if token is not None]
    return TextScores(
        np.array([token.logprob for token in scored]),
        np.array([token.top[0][0] for token in scored]),
    )


def compare(ours: TextScores, reference: TextScores, weights: Weights) -> Agreement:
    """Compare two readings of one text."""
    return Agreement(
        weights=weights,
        num_tokens=len(reference.logprobs) + 1,
        perplexity=ours.perplexity,
        reference_perplexity=reference.perplexity,
        greedy_share=float((ours.greedy == reference.greedy).mean()),
    )


def greedy_identity(checkpoint: Checkpoint, num_prompts: int = _NUM_PROMPTS) -> list[Identity]:
    """Compare greedy answers given alone with those given in company.

    Prompts have different lengths; every second one begins with the same tokens.
    """
    prompts = _prompts(text_tokens(checkpoint, 4000), num_prompts)
    executor = NativeExecutor.load(checkpoint)
    plain = EngineConfig(use_prefix_cache=False)
    try:
        alone = [_answers(executor, [prompt], plain)[0][0] for prompt in prompts]
        batch, _ = _answers(executor, prompts, plain)
        reuse, reuse_stats = _answers(executor, prompts, EngineConfig(), times=2)
        chunked, chunk_stats = _answers(
            executor, prompts, EngineConfig(use_prefix_cache=False, max_step_tokens=40)
        )
        preempted, preempted_stats = _answers(_Smaller(executor, _FEW_BLOCKS), prompts, plain)
    finally:
        executor.close()
    hits, preemptions = reuse_stats.cache_hit_tokens, preempted_stats.num_preemptions
    return [
        _identity(f"in a batch of {num_prompts}", alone, batch, "all were submitted at once", True),
        _identity("with prefix reuse", alone, reuse, f"{hits} tokens were reused", hits > 0),
        _identity(
            "in chunks of at most 40 tokens",
            alone,
            chunked,
            f"{chunk_stats.num_steps} steps",
            max(map(len, prompts)) > 40,
        ),
        _identity(
            f"in a cache of {_FEW_BLOCKS} blocks",
            alone,
            preempted,
            f"{preemptions} preemptions",
            preemptions > 0,
        ),
    ]


class _Smaller:
    """An executor that owns up to fewer cache blocks than it has."""

    def __init__(self, executor: "Executor", num_blocks: int) -> None:
        self.cache_shapes = tuple(
            shape if shape.kind == "state" else replace(shape, num_blocks=num_blocks)
            for shape in executor.cache_shapes
        )
        self.needs_whole_prompt = executor.needs_whole_prompt
        self.can_share_prefixes = executor.can_share_prefixes
        self.block_size = executor.block_size
        self.max_step_tokens = executor.max_step_tokens
        self.max_logit_rows = executor.max_logit_rows
        self.kv_type = executor.kv_type
        self.weights_version = executor.weights_version
        self.execute = executor.execute


def _prompts(tokens: Sequence[int], count: int) -> list[list[int]]:
    shared = list(tokens[:_SHARED_TOKENS])
    prompts = []
    for number in range(count):
        own = list(tokens[_SHARED_TOKENS + 50 * number :][: 3 + (7 * number) % 47])
        prompts.append(shared + own if number % 2 else own)
    return prompts


def _answers(
    executor: "Executor", prompts: Sequence[Sequence[int]], config: EngineConfig, times: int = 1
) -> tuple[list[tuple[int, ...]], EngineStats]:
    """Continue prompts greedily; with `times` > 1 ask again and give the last answers."""
    engine = Engine(executor, None, context=1024, eos_token_ids=(), config=config)
    sampling = SamplingParams(temperature=0.0, max_tokens=_NEW_TOKENS)
    answers: dict[str, OutputEvent] = {}
    for _ in range(times):
        requests = [
            GenerationRequest(str(number), prompt, sampling)
            for number, prompt in enumerate(prompts)
        ]
        answers = _finish(engine, requests)
    return [answers[str(number)].tokens for number in range(len(prompts))], engine.stats()


def _finish(engine: Engine, requests: Sequence[GenerationRequest]) -> dict[str, OutputEvent]:
    """Run requests to their end; each comes back as one event that holds all its tokens."""
    for request in requests:
        engine.add(request)
    whole: dict[str, OutputEvent] = {}
    while engine.has_work:
        for event in engine.step():
            if event.error is not None:
                raise EngineError(event.error)
            before = whole.get(event.request_id, OutputEvent(event.request_id))
            whole[event.request_id] = OutputEvent(
                event.request_id,
                tokens=before.tokens + event.tokens,
                prompt_score=event.prompt_score or before.prompt_score,
                finish_reason=event.finish_reason,
            )
    return whole


def _identity(
    name: str,
    alone: Sequence[tuple[int, ...]],
    together: Sequence[tuple[int, ...]],
    evidence: str,
    took_place: bool,
) -> Identity:
    different = sum(a != b for a, b in zip(alone, together, strict=True))
    return Identity(name, len(alone), different, evidence, took_place)


def _verdict(has_passed: bool) -> str:
    return "ok   " if has_passed else "WRONG"
