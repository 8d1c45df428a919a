"""The executor on the native core: one compiled program and its paged cache.

Beside the blocks and slots that a scheduler hands out there is scratch room for one sequence of
the whole context, or for an encoder's step; it takes no memory until it is used.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, takewhile
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import UnsupportedError
from yearling.core.memory import available_bytes
from yearling.kernels import _native
from yearling.kernels.program import BLOCK_TOKENS, GroupTables, NativeProgram, StepArrays
from yearling.models.adapter import read_adapter
from yearling.models.checkpoint import Checkpoint
from yearling.models.program import CompiledModel, WeightKind, compile_program
from yearling.models.spec import ModelSpec, Pooling
from yearling.serving.executor import (
    CacheShape,
    GroupBlocks,
    SampleInput,
    SampleOutput,
    SequenceInput,
    SequenceOutput,
)
from yearling.serving.executors.cache_sizes import CacheDemand, cache_shapes
from yearling.serving.executors.choosing import check_tokens
from yearling.serving.executors.native_adapters import native_updates
from yearling.serving.executors.native_step import (
    flat_offsets,
    group_tables,
    lay_out,
    masks,
    read_samples,
    to_ints,
)
from yearling.serving.executors.weights_version import weights_version

__all__ = ["NativeExecutor"]

CacheType = Literal["auto", "float32", "float16", "bfloat16"]
"""`auto` is float32 for float32 weights; otherwise bfloat16 where the processor multiplies such
numbers, and float16 elsewhere."""

_DEFAULT_CACHE_CONTEXTS = 4  # full contexts that fit side by side, memory allowing
_SHARE_OF_FREE_MEMORY = 0.5
_NOT_FINITE = "the model's logits are not finite: its weights, or a step, are broken."


@dataclass(frozen=True, slots=True)
class _Limits:
    """Sizes that are fixed when the program is built.

    Attributes:
        shapes: The scheduler's cache groups; none for an encoder.
        kv_type: Type of cached keys and values.
        step_tokens: Tokens one step may hold.
        logit_rows: Rows of logits, or vectors of an encoder, one step may ask for.
    """

    shapes: tuple[CacheShape, ...]
    kv_type: str
    step_tokens: int
    logit_rows: int


class NativeExecutor:
    """Implements `serving.executor.Executor` for one loaded model.

    Attributes:
        cache_shapes: Its cache groups; none for an encoder.
        block_size: Tokens per block.
        max_step_tokens: Tokens one step may hold.
        max_logit_rows: Rows of logits one step may ask for.
        kv_type: Type of cached keys and values.
        weights_version: Changes whenever the weights do.
        needs_whole_prompt: A prompt is computed in one step.
        can_share_prefixes: Whether equal prefixes give equal keys and values.
        takes_guesses: Whether tokens may be computed in vain: not beside windows and states.
        weight_bytes: Size of all packed weights.
        context: Most tokens of a sequence.
        threads: Threads that compute.
    """

    block_size = BLOCK_TOKENS

    def __init__(
        self,
        model: CompiledModel,
        spec: ModelSpec,
        limits: _Limits,
        *,
        pool: _native.Pool,
        weights_version: str,
        kernels: str = "auto",
    ) -> None:
        self.cache_shapes = limits.shapes
        self.kv_type = limits.kv_type
        self.max_step_tokens = limits.step_tokens
        self.max_logit_rows = limits.logit_rows
        self.weights_version = weights_version
        self.needs_whole_prompt = model.needs_whole_prompt
        self.can_share_prefixes = model.can_share_prefixes
        self.takes_guesses = not model.needs_whole_prompt and all(
            group.kind == "full" for group in model.cache_groups
        )
        self.weight_bytes = model.weight_bytes
        self.threads = pool.threads
        self.context = model.context
        self._spec = spec
        self._prompt_tail = model.prompt_tail
        self._kinds = [shape.kind for shape in limits.shapes]
        self._is_encoder = isinstance(spec.head, Pooling)
        num_groups = sum(group.kind != "state" for group in model.cache_groups)
        num_blocks = [s.num_blocks for s in limits.shapes if s.kind != "state"] or [0] * num_groups
        slots = sum(shape.num_blocks for shape in limits.shapes if shape.kind == "state")
        self._first_scratch = num_blocks
        self._scratch_slot = slots if len(model.cache_groups) > num_groups else None
        self._program = NativeProgram(
            model.operations,
            context=model.context,
            vocabulary=spec.vocabulary,
            cache_blocks=[count + self._scratch_blocks() for count in num_blocks],
            state_slots=0 if self._scratch_slot is None else slots + 1,
            cache_type=limits.kv_type,
            step_tokens=limits.step_tokens,
            logit_rows=limits.logit_rows,
            pool=pool,
            kernels=kernels,
        )
        self._linear_parts = model.linear_parts
        self._sampled_rows: dict[int, int] = {}  # of the last step, by its sequences
        self._adapter_kind = "float16" if model.is_quantized else "float32"
        self._logits = self._program.buffers["pooled" if self._is_encoder else "logits"]

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
            cache_bytes: Room for keys, values and states; None takes four full contexts, or half
                of the free memory when that is less. Memory is taken as blocks fill.
            context: Positions to prepare for; None takes the model's own.
            max_sequences: Sequences that may ask for logits in one step, and have states.
            max_step_tokens: Tokens one step may hold; those of an encoder, and of a model whose
                prompts see themselves whole, hold the longest text.
            threads: Threads that compute; None takes one per core.
            kernels: `auto`, or an instruction set by name.

        Raises:
            UnsupportedError: the model has a part the native core does not compute.
            CapacityError: `cache_bytes` does not hold a block of every layer.
        """
        spec = checkpoint.spec
        pool = _native.Pool(threads or 0)
        model = compile_program(checkpoint, weights=weights, context=context, threads=pool.threads)
        if kv_type == "auto":
            half: CacheType = "bfloat16" if _native.multiplies_bfloats(kernels) else "float16"
            kv_type = half if model.is_quantized else "float32"
        shapes: tuple[CacheShape, ...] = ()
        if model.needs_whole_prompt:
            max_step_tokens = max(max_step_tokens, model.context)
        if not isinstance(spec.head, Pooling):
            demand = CacheDemand(
                context=model.context,
                max_sequences=max_sequences,
                max_step_tokens=max_step_tokens,
                block_tokens=BLOCK_TOKENS,
                float_bytes=4 if kv_type == "float32" else 2,
            )
            free_bytes = int(available_bytes() * _SHARE_OF_FREE_MEMORY)
            shapes = cache_shapes(
                model.cache_groups,
                demand,
                num_bytes=free_bytes if cache_bytes is None else cache_bytes,
                most_contexts=_DEFAULT_CACHE_CONTEXTS if cache_bytes is None else None,
            )
        return cls(
            model,
            spec,
            _Limits(shapes, kv_type, max_step_tokens, max(max_sequences, 64)),
            pool=pool,
            weights_version=weights_version(checkpoint.path, weights),
            kernels=kernels,
        )

    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        """Run one step; see `serving.executor.Executor`."""
        layout = lay_out(step, kinds=self._kinds, prompt_tail=self._prompt_tail)
        self._program.run(layout.arrays)
        samples = self._sample(layout.samples)
        self._sampled_rows = {number: rows[-1][0] for number, rows in layout.samples.items()}
        scores = self._score(layout.scores)
        return [
            _output(samples.get(number, ()), scores.get(number, ()), sequence.score_targets)
            for number, sequence in enumerate(step)
        ]

    def choose_again(self, samples: Sequence[tuple[int, SampleInput]]) -> list[SampleOutput | None]:
        """Choose by the last step's logits; see `serving.executor.RechoosingExecutor`."""
        chosen = self._sample({n: [(self._sampled_rows[n], sample)] for n, sample in samples})
        return [chosen[number][0] for number, _ in samples]

    def load_adapter(self, number: int, folder: Path) -> str:
        """Serve an adapter; see `serving.executor.Executor`.

        Its matrices are kept in float16 beside quantised weights, and in float32 otherwise.
        """
        if self._is_encoder:
            raise UnsupportedError("an encoder serves no adapters.")
        adapter = read_adapter(folder, self._spec)
        updates = native_updates(adapter, self._linear_parts)
        self._program.set_adapter(number, updates, self._adapter_kind)
        return f"{adapter.version} {self._adapter_kind}"

    def unload_adapter(self, number: int) -> None:
        """Free an adapter; see `serving.executor.Executor`."""
        self._program.set_adapter(number, ())

    def logits(self, tokens: Sequence[int], num_prompt: int | None = None) -> NDArray[np.float32]:
        """Logits after each token of one sequence alone: (T, V).

        Leaves the cache that steps use alone.

        Args:
            tokens: The sequence.
            num_prompt: Leading tokens that are its prompt; None takes all of them.

        Raises:
            RequestError: no tokens, too many for the context, or ids outside the vocabulary.
            ContextLengthError: a prompt whose tokens see each other does not fit a step.
            UnsupportedError: the model is an encoder.
        """
        if self._is_encoder:
            raise UnsupportedError(
                f"a model of family {self._spec.family!r} gives vectors, not logits."
            )
        check_tokens(tokens, context=self.context, vocabulary=self._spec.vocabulary)
        ids = np.asarray(tokens, np.int32)
        num_prompt = len(ids) if num_prompt is None else num_prompt
        result = np.empty((len(ids), self._spec.vocabulary), np.float32)
        for start, end in self._chunks(len(ids), num_prompt):
            # A whole prompt may have more rows than a step has logits: then it runs again.
            for row in range(start, end, self.max_logit_rows):
                rows = np.arange(row, min(end, row + self.max_logit_rows), dtype=np.int32)
                self._program.run(self._alone(ids[start:end], start, rows - start, num_prompt))
                result[rows] = self._program.view("logits", len(rows))
        return result

    def embed(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """One vector for each sequence, whatever else is given with it: (sequences, E).

        Raises:
            RequestError: a sequence is empty, too long, or has ids outside the vocabulary.
            UnsupportedError: the model is no encoder.
        """
        if not self._is_encoder:
            raise UnsupportedError(
                f"a model of family {self._spec.family!r} gives logits, not vectors."
            )
        for tokens in sequences:
            check_tokens(tokens, context=self.context, vocabulary=self._spec.vocabulary)
        result = np.empty((len(sequences), self._spec.width), np.float32)
        for numbers in self._batches([len(tokens) for tokens in sequences]):
            self._program.run(self._texts([sequences[number] for number in numbers]))
            result[numbers] = self._program.view("pooled", len(numbers))
        return result

    def close(self) -> None:
        """Free weights and cache; the executor cannot be used afterwards."""
        del self._program

    def _scratch_blocks(self) -> int:
        """Blocks of each group that `logits` or `embed` take."""
        if self._is_encoder:  # the last block of each text is used in part
            return self.max_step_tokens // BLOCK_TOKENS + self.max_logit_rows
        return math.ceil(self.context / BLOCK_TOKENS)

    def _chunks(self, num_tokens: int, num_prompt: int) -> list[tuple[int, int]]:
        """Where the steps of one sequence alone start and end."""
        first = min(num_prompt, num_tokens) if self.needs_whole_prompt else 0
        width = min(self.max_step_tokens, self.max_logit_rows)
        edges = [0, *range(first, num_tokens, width), num_tokens]
        return [(start, end) for start, end in pairwise(edges) if start < end]

    def _alone(
        self, ids: NDArray[np.int32], start: int, rows: NDArray[np.int32], num_prompt: int
    ) -> StepArrays:
        blocks = range(-(-(start + len(ids)) // BLOCK_TOKENS))
        return StepArrays(
            tokens=ids,
            starts=to_ints([start]),
            lengths=to_ints([len(ids)]),
            tables=self._scratch_tables([blocks]),
            logit_rows=rows,
            prefixes=to_ints([max(0, num_prompt - self._prompt_tail)]),
            slots=None if self._scratch_slot is None else to_ints([self._scratch_slot]),
        )

    def _texts(self, texts: Sequence[Sequence[int]]) -> StepArrays:
        lengths = [len(tokens) for tokens in texts]
        block_ends = flat_offsets(-(-length // BLOCK_TOKENS) for length in lengths).tolist()
        blocks = [range(*ends) for ends in pairwise(block_ends)]
        return StepArrays(
            tokens=to_ints(chain.from_iterable(texts)),
            starts=np.zeros(len(texts), np.int32),
            lengths=to_ints(lengths),
            tables=self._scratch_tables(blocks),
            logit_rows=flat_offsets(lengths)[1:] - 1,
            prefixes=to_ints(lengths),
        )

    def _scratch_tables(self, blocks: Sequence[range]) -> tuple[GroupTables, ...]:
        return tuple(
            group_tables([GroupBlocks([first + block for block in run]) for run in blocks])
            for first in self._first_scratch
        )

    def _batches(self, lengths: Sequence[int]) -> list[list[int]]:
        """Numbers of the texts of each step; long texts first, so that short ones fill up."""
        batches: list[list[int]] = []
        room = 0
        for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
            if lengths[number] > room or len(batches[-1]) == self.max_logit_rows:
                batches.append([])
                room = self.max_step_tokens
            batches[-1].append(number)
            room -= lengths[number]
        return batches

    def _sample(
        self, rows: "dict[int, list[tuple[int, SampleInput]]]"
    ) -> "dict[int, tuple[SampleOutput | None, ...]]":
        flat = [entry for entries in rows.values() for entry in entries]
        if not flat:
            return {}
        inputs = [sample for _, sample in flat]
        allowed, allowed_rows = masks([s.allowed for s in inputs])
        arrays = self._program.core.sample(
            buffer=self._logits,
            rows=to_ints([row for row, _ in flat]),
            temperature=_floats([s.temperature for s in inputs]),
            top_k=to_ints([s.top_k for s in inputs]),
            top_p=_floats([s.top_p for s in inputs]),
            min_p=_floats([s.min_p for s in inputs]),
            repetition=_floats([s.repetition_penalty for s in inputs]),
            presence=_floats([s.presence_penalty for s in inputs]),
            frequency=_floats([s.frequency_penalty for s in inputs]),
            seeds=np.array([s.seed % 2**64 for s in inputs], np.uint64),
            output_indices=np.array([s.output_index for s in inputs], np.uint64),
            history=to_ints(chain.from_iterable(s.history for s in inputs)),
            history_offsets=flat_offsets(len(s.history) for s in inputs),
            num_generated=to_ints([s.num_generated for s in inputs]),
            bias_tokens=to_ints([token for s in inputs for token, _ in s.logit_bias]),
            bias_values=_floats([value for s in inputs for _, value in s.logit_bias]),
            bias_offsets=flat_offsets(len(s.logit_bias) for s in inputs),
            allowed=allowed,
            allowed_rows=allowed_rows,
            num_logprobs=to_ints(
                [-1 if s.num_logprobs is None else s.num_logprobs for s in inputs]
            ),
        )
        outputs = iter(read_samples(arrays, [s.num_logprobs or 0 for s in inputs]))
        return {number: tuple(next(outputs) for _ in entries) for number, entries in rows.items()}

    def _score(
        self, rows: "dict[int, list[tuple[int, int, int]]]"
    ) -> "dict[int, tuple[SampleOutput | None, ...]]":
        flat = [entry for entries in rows.values() for entry in entries]
        if not flat:
            return {}
        arrays = self._program.core.score(
            buffer=self._logits,
            rows=to_ints([row for row, _, _ in flat]),
            targets=to_ints([max(target, 0) for _, target, _ in flat]),
            num_logprobs=to_ints([count for _, _, count in flat]),
        )
        outputs = iter(read_samples(arrays, [count for _, _, count in flat]))
        return {number: tuple(next(outputs) for _ in entries) for number, entries in rows.items()}


def _output(
    samples: tuple[SampleOutput | None, ...],
    scores: tuple[SampleOutput | None, ...],
    targets: Sequence[int],
) -> SequenceOutput:
    if None in samples or None in scores:
        # Choices before a broken row count: they may show that it follows a wrong guess.
        sound = tuple(takewhile(lambda sample: sample is not None, samples))
        return SequenceOutput(error=_NOT_FINITE, guesses=sound)  # type: ignore[arg-type]
    kept = tuple(
        None if target < 0 else score for target, score in zip(targets, scores, strict=True)
    )
    chosen = [sample for sample in samples if sample is not None]
    if not chosen:
        return SequenceOutput(None, kept)
    return SequenceOutput(chosen[-1], kept, guesses=tuple(chosen[:-1]))


def _floats(values: Sequence[float]) -> NDArray[np.float32]:
    return np.array(values, np.float32)
