"""The executor on the native core: one compiled program and its paged cache."""

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import CapacityError, RequestError
from yearling.core.memory import available_bytes
from yearling.kernels import _native
from yearling.kernels.program import BLOCK_TOKENS, NativeProgram, StepArrays
from yearling.models.checkpoint import Checkpoint
from yearling.models.program import CompiledModel, WeightKind, compile_program
from yearling.models.spec import Attention
from yearling.serving.executor import SampleInput, SampleOutput, SequenceInput, SequenceOutput

__all__ = ["NativeExecutor"]

CacheType = Literal["auto", "float32", "float16"]
"""`auto` is float32 for float32 weights, and float16 otherwise."""

_DEFAULT_CACHE_CONTEXTS = 4  # full contexts that fit side by side, memory allowing
_SHARE_OF_FREE_MEMORY = 0.5
_NOT_FINITE = "the model's logits are not finite: its weights, or a step, are broken."


@dataclass(frozen=True, slots=True)
class _CacheShape:
    type: str
    blocks: int


class NativeExecutor:
    """Implements `serving.executor.Executor` for one loaded model.

    Attributes:
        num_blocks: Cache blocks there are.
        block_size: Tokens per block.
        max_step_tokens: Tokens one step may hold.
        max_logit_rows: Rows of logits one step may ask for.
        kv_type: Type of cached keys and values.
        weights_version: Changes whenever the weights do.
        weight_bytes: Size of all packed weights.
        threads: Threads that compute.
    """

    block_size = BLOCK_TOKENS

    def __init__(
        self,
        model: CompiledModel,
        *,
        vocabulary: int,
        cache: _CacheShape,
        max_step_tokens: int,
        max_logit_rows: int,
        pool: _native.Pool,
        weights_version: str,
        kernels: str = "auto",
    ) -> None:
        self.num_blocks = cache.blocks
        self.kv_type = cache.type
        self.max_step_tokens = max_step_tokens
        self.max_logit_rows = max_logit_rows
        self.weights_version = weights_version
        self.weight_bytes = model.weight_bytes
        self.threads = pool.threads
        self.context = model.context
        self._vocabulary = vocabulary
        # `logits` has blocks of its own behind the scheduler's; they cost nothing until used.
        scratch_blocks = math.ceil(model.context / BLOCK_TOKENS)
        self._scratch = np.arange(scratch_blocks, dtype=np.int32)[None, :] + cache.blocks
        self._program = NativeProgram(
            model.operations,
            context=model.context,
            vocabulary=vocabulary,
            cache_blocks=cache.blocks + scratch_blocks,
            cache_type=cache.type,
            step_tokens=max_step_tokens,
            logit_rows=max_logit_rows,
            pool=pool,
            kernels=kernels,
        )
        self._logits = self._program.buffers["logits"]

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        weights: WeightKind = "auto",
        kv_type: CacheType = "auto",
        cache_bytes: int | None = None,
        context: int | None = None,
        max_sequences: int = 128,
        max_step_tokens: int = 512,
        threads: int | None = None,
        kernels: str = "auto",
    ) -> "NativeExecutor":
        """Pack a checkpoint's weights and make its cache.

        Args:
            checkpoint: Opened model files.
            weights: See `models.program.compile_program`.
            kv_type: Type of cached keys and values.
            cache_bytes: Room for keys and values; None takes four full contexts, or half of
                the free memory when that is less. Memory is taken as blocks fill.
            context: Positions to prepare for; None takes the model's own.
            max_sequences: Sequences that may ask for logits in one step.
            max_step_tokens: Tokens one step may hold.
            threads: Threads that compute; None takes one per core.
            kernels: `auto`, or an instruction set by name.

        Raises:
            UnsupportedError: the model has a part the native core does not compute.
            CapacityError: `cache_bytes` does not hold a single block.
        """
        pool = _native.Pool(threads or 0)
        model = compile_program(checkpoint, weights=weights, context=context, threads=pool.threads)
        cache = _cache_shape(checkpoint, model, kv_type, cache_bytes)
        return cls(
            model,
            vocabulary=checkpoint.spec.vocabulary,
            cache=cache,
            max_step_tokens=max_step_tokens,
            max_logit_rows=max(max_sequences, 64),
            pool=pool,
            weights_version=_version(checkpoint, weights),
            kernels=kernels,
        )

    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        """Run one step; see `serving.executor.Executor`."""
        layout = _lay_out(step)
        self._program.run(layout.arrays)
        samples = self._sample(layout.samples)
        scores = self._score(layout.scores)
        return [
            _output(sequence, samples.get(number), scores.get(number, ()))
            for number, sequence in enumerate(step)
        ]

    def logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each token of one sequence alone: (T, V).

        Leaves the cache that steps use alone.

        Raises:
            RequestError: no tokens, too many for the context, or ids outside the vocabulary.
        """
        self._check_tokens(tokens)
        ids = np.asarray(tokens, np.int32)
        result = np.empty((len(ids), self._vocabulary), np.float32)
        width = min(self.max_step_tokens, self.max_logit_rows)
        for start in range(0, len(ids), width):
            chunk = ids[start : start + width]
            rows = np.arange(len(chunk), dtype=np.int32)
            place = _ints([start]), _ints([len(chunk)]), self._scratch
            self._program.run(StepArrays(chunk, *place, rows))
            result[start : start + width] = self._program.view("logits", len(chunk))
        return result

    def close(self) -> None:
        """Free weights and cache; the executor cannot be used afterwards."""
        del self._program

    def _check_tokens(self, tokens: Sequence[int]) -> None:
        if not 0 < len(tokens) <= self.context:
            raise RequestError(
                f"{len(tokens)} tokens given; 1 to {self.context} fit.", parameter="tokens"
            )
        for token in tokens:
            if not 0 <= token < self._vocabulary:
                raise RequestError(
                    f"token id {token} is outside the vocabulary of {self._vocabulary}.",
                    parameter="tokens",
                )

    def _sample(self, rows: "dict[int, tuple[int, SampleInput]]") -> dict[int, SampleOutput | None]:
        if not rows:
            return {}
        inputs = [sample for _, sample in rows.values()]
        arrays = self._program.core.sample(
            buffer=self._logits,
            rows=_ints([row for row, _ in rows.values()]),
            temperature=_floats([s.temperature for s in inputs]),
            top_k=_ints([s.top_k for s in inputs]),
            top_p=_floats([s.top_p for s in inputs]),
            min_p=_floats([s.min_p for s in inputs]),
            repetition=_floats([s.repetition_penalty for s in inputs]),
            presence=_floats([s.presence_penalty for s in inputs]),
            frequency=_floats([s.frequency_penalty for s in inputs]),
            seeds=np.array([s.seed % 2**64 for s in inputs], np.uint64),
            output_indices=np.array([s.output_index for s in inputs], np.uint64),
            history=_ints(chain.from_iterable(s.history for s in inputs)),
            history_offsets=_offsets(len(s.history) for s in inputs),
            num_generated=_ints([s.num_generated for s in inputs]),
            bias_tokens=_ints([token for s in inputs for token, _ in s.logit_bias]),
            bias_values=_floats([value for s in inputs for _, value in s.logit_bias]),
            bias_offsets=_offsets(len(s.logit_bias) for s in inputs),
            num_logprobs=_ints([-1 if s.num_logprobs is None else s.num_logprobs for s in inputs]),
        )
        outputs = _read_samples(arrays, [s.num_logprobs or 0 for s in inputs])
        return dict(zip(rows, outputs, strict=True))

    def _score(
        self, rows: "dict[int, list[tuple[int, int, int]]]"
    ) -> "dict[int, tuple[SampleOutput | None, ...]]":
        flat = [entry for entries in rows.values() for entry in entries]
        if not flat:
            return {}
        arrays = self._program.core.score(
            buffer=self._logits,
            rows=_ints([row for row, _, _ in flat]),
            targets=_ints([max(target, 0) for _, target, _ in flat]),
            num_logprobs=_ints([count for _, _, count in flat]),
        )
        outputs = iter(_read_samples(arrays, [count for _, _, count in flat]))
        return {number: tuple(next(outputs) for _ in entries) for number, entries in rows.items()}


@dataclass(frozen=True, slots=True)
class _Layout:
    """A step as arrays, and which logit rows belong to which sequence."""

    arrays: StepArrays
    samples: dict[int, tuple[int, SampleInput]]
    scores: dict[int, list[tuple[int, int, int]]]  # logit row, target, alternatives


def _lay_out(step: Sequence[SequenceInput]) -> _Layout:
    logit_rows: list[int] = []
    samples: dict[int, tuple[int, SampleInput]] = {}
    scores: dict[int, list[tuple[int, int, int]]] = {}
    first = 0
    for number, sequence in enumerate(step):
        length = len(sequence.tokens)
        if sequence.score_targets:
            scores[number] = [
                (len(logit_rows) + i, target, sequence.num_score_logprobs)
                for i, target in enumerate(sequence.score_targets)
            ]
            logit_rows.extend(range(first, first + length))
        elif sequence.sample is not None:
            logit_rows.append(first + length - 1)
        if sequence.sample is not None:
            samples[number] = (len(logit_rows) - 1, sequence.sample)
        first += length
    arrays = StepArrays(
        tokens=_ints(chain.from_iterable(sequence.tokens for sequence in step)),
        starts=_ints([sequence.start for sequence in step]),
        lengths=_ints([len(sequence.tokens) for sequence in step]),
        block_tables=_tables([sequence.block_table for sequence in step]),
        logit_rows=_ints(logit_rows),
    )
    return _Layout(arrays, samples, scores)


def _tables(tables: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    padded = np.zeros((len(tables), max(map(len, tables))), np.int32)
    for row, table in zip(padded, tables, strict=True):
        row[: len(table)] = table
    return padded


def _output(
    sequence: SequenceInput,
    sample: SampleOutput | None,
    scores: tuple[SampleOutput | None, ...],
) -> SequenceOutput:
    is_broken = (sequence.sample is not None and sample is None) or None in scores
    if is_broken:
        return SequenceOutput(error=_NOT_FINITE)
    kept = tuple(
        None if target < 0 else score
        for target, score in zip(sequence.score_targets, scores, strict=True)
    )
    return SequenceOutput(sample, kept)


def _read_samples(
    arrays: tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]],
    num_logprobs: Sequence[int],
) -> list[SampleOutput | None]:
    tokens, logprobs, top_tokens, top_logprobs = (array.tolist() for array in arrays)
    return [
        None
        if token < 0
        else SampleOutput(token, logprob, tuple(zip(ids[:count], values[:count], strict=True)))
        for token, logprob, ids, values, count in zip(
            tokens, logprobs, top_tokens, top_logprobs, num_logprobs, strict=True
        )
    ]


def _ints(values: Iterable[int]) -> NDArray[np.int32]:
    return np.array(list(values), np.int32)


def _floats(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)


def _offsets(lengths: Iterable[int]) -> NDArray[np.int32]:
    return np.array([0, *accumulate(lengths)], np.int32)


def _cache_shape(
    checkpoint: Checkpoint, model: CompiledModel, kv_type: CacheType, cache_bytes: int | None
) -> _CacheShape:
    if kv_type == "auto":
        kv_type = "float16" if model.is_quantized else "float32"
    element = 4 if kv_type == "float32" else 2
    per_block = sum(
        2 * layer.mixer.kv_heads * layer.mixer.head_dim * BLOCK_TOKENS * element
        for layer in checkpoint.spec.layers
        if isinstance(layer.mixer, Attention)
    )
    blocks_per_context = math.ceil(model.context / BLOCK_TOKENS)
    if cache_bytes is None:
        room = int(available_bytes() * _SHARE_OF_FREE_MEMORY)
        blocks = min(_DEFAULT_CACHE_CONTEXTS * blocks_per_context, room // per_block)
    else:
        blocks = cache_bytes // per_block
    if blocks < 1:
        raise CapacityError(
            f"{cache_bytes or 'the free memory'} bytes do not hold one cache block of "
            f"{per_block} bytes ({BLOCK_TOKENS} tokens, {kv_type}); give more cache_bytes."
        )
    return _CacheShape(kv_type, blocks)


def _version(checkpoint: Checkpoint, weights: str) -> str:
    """Name the weights by what their files say of themselves: path, size, time of change."""
    stat = checkpoint.path.stat()
    text = f"{checkpoint.path.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{weights}"
    return hashlib.sha256(text.encode()).hexdigest()
