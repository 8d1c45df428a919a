"""The executor on PyTorch: the decoder that trains, under the same scheduler and block tables."""

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from yearling.core.errors import CapacityError, UnsupportedError
from yearling.core.memory import available_bytes
from yearling.models.cache_layout import CacheGroup, cache_layout
from yearling.models.checkpoint import Checkpoint
from yearling.models.spec import Head, ModelSpec
from yearling.models.torch_decoder import Segments, TorchDecoder, load_torch_decoder
from yearling.serving.executor import CacheShape, SequenceInput, SequenceOutput
from yearling.serving.executors.choosing import answer, check_tokens, logit_rows
from yearling.serving.executors.paged_cache import BLOCK_TOKENS, PagedCache
from yearling.serving.executors.weights_version import weights_version

__all__ = ["TorchExecutor"]

WeightType = Literal["auto", "float32", "float16"]
CacheType = Literal["auto", "float32", "float16", "bfloat16"]

_TYPES = {"float32": torch.float32, "float16": torch.float16}
_CACHE_TYPES = {**_TYPES, "bfloat16": torch.bfloat16}
_DEFAULT_CACHE_CONTEXTS = 4  # full contexts that fit side by side, memory allowing
_SHARE_OF_FREE_MEMORY = 0.5


class TorchExecutor:
    """Implements `serving.executor.Executor` for one loaded model.

    Attributes:
        cache_shapes: Its cache groups; none of an encoder, which runs no steps.
        block_size: Tokens per block.
        max_step_tokens: Tokens one step may hold.
        max_logit_rows: Rows of logits one step may ask for.
        kv_type: Type of cached keys and values.
        weights_version: Changes whenever the weights do.
        needs_whole_prompt: A prompt is computed in one step.
        can_share_prefixes: Whether equal prefixes give equal keys and values.
        takes_guesses: False.
        weight_bytes: Size of all parameters.
        context: Most tokens of a sequence.
        threads: Threads that compute on a CPU.
    """

    block_size = BLOCK_TOKENS
    takes_guesses = False  # torch's products may round otherwise among other rows

    def __init__(
        self,
        decoder: TorchDecoder,
        *,
        num_blocks: Sequence[int],
        kv_type: str,
        context: int,
        max_step_tokens: int,
        max_logit_rows: int,
        weights_version: str,
    ) -> None:
        """Serve a decoder.

        Args:
            decoder: With its weights, on the device that computes.
            num_blocks: Blocks of each group of `cache_layout`, and slots of the states; empty for
                an encoder.
            kv_type: `float32`, `float16` or `bfloat16`.
        """
        layout = cache_layout(decoder.spec)
        self.cache_shapes = tuple(
            CacheShape(group.kind, count, group.window)
            for group, count in zip(layout.groups, num_blocks, strict=bool(num_blocks))
        )
        self.needs_whole_prompt = layout.needs_whole_prompt
        self.can_share_prefixes = layout.can_share_prefixes
        self.kv_type = kv_type
        self.context = context
        self.max_step_tokens = max_step_tokens
        self.max_logit_rows = max_logit_rows
        self.weights_version = weights_version
        parameters = list(decoder.parameters())
        self.weight_bytes = sum(p.numel() * p.element_size() for p in parameters)
        self.threads = torch.get_num_threads()
        self._decoder = decoder.eval()
        self._device = parameters[0].device
        self._cache: PagedCache | None = None
        if self.cache_shapes:
            self._cache = PagedCache(
                decoder.spec, layout, num_blocks, dtype=_CACHE_TYPES[kv_type], device=self._device
            )

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        weights: WeightType = "auto",
        kv_type: CacheType = "auto",
        cache_bytes: int | None = None,
        context: int | None = None,
        max_sequences: int = 128,
        max_step_tokens: int = 512,
        threads: int | None = None,
        device: str = "cpu",
    ) -> "TorchExecutor":
        """Read a checkpoint's weights and make its cache.

        Args:
            checkpoint: Opened model files.
            weights: Type of all parameters; `auto` is float32 on a CPU, and float16 elsewhere.
            kv_type: Type of cached keys and values; `auto` is that of the weights.
            cache_bytes: Room for the cache; None takes four full contexts, or half of the free
                memory when that is less.
            context: Most tokens of a sequence; None takes the model's own.
            max_sequences: Sequences that may ask for logits in one step.
            max_step_tokens: Tokens one step may hold.
            threads: Threads that compute in this process; None leaves them as they are.
            device: Where to compute, as torch names it.

        Raises:
            UnsupportedError: parameters of such a type are not computed on.
            CapacityError: `cache_bytes` is too small.
        """
        if weights not in ("auto", *_TYPES):
            raise UnsupportedError(
                f"the torch executor does not compute on {weights} weights; float32 and float16 "
                "are what it has."
            )
        if threads is not None:
            torch.set_num_threads(threads)
        own = "float32" if torch.device(device).type == "cpu" else "float16"
        weight_type = own if weights == "auto" else weights
        cache_type = weight_type if kv_type == "auto" else kv_type
        context = context or checkpoint.spec.context
        if cache_layout(checkpoint.spec).needs_whole_prompt:
            max_step_tokens = max(max_step_tokens, context)
        sizes = _Sizes(checkpoint.spec, context, max_step_tokens, max_sequences, cache_type)
        return cls(
            load_torch_decoder(checkpoint, dtype=_TYPES[weight_type], device=device),
            num_blocks=sizes.num_blocks(cache_bytes, torch.device(device)),
            kv_type=cache_type,
            context=context,
            max_step_tokens=max_step_tokens,
            max_logit_rows=max(max_sequences, 64),
            weights_version=weights_version(checkpoint.path, f"torch {weight_type}"),
        )

    @torch.inference_mode()
    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        """Run one step; see `serving.executor.Executor`."""
        assert self._cache is not None, "an encoder embeds, it runs no steps"
        segments = Segments(
            lengths=[len(sequence.tokens) for sequence in step],
            starts=[sequence.start for sequence in step],
            prefixes=[self._prefix(sequence.num_prompt) for sequence in step],
        )
        self._cache.begin(step)
        tokens = self._tensor([token for sequence in step for token in sequence.tokens])
        hidden = self._decoder(tokens, segments, cache=self._cache)
        wanted = logit_rows(step)
        if not wanted.rows:
            return [SequenceOutput() for _ in step]
        logits = self._numpy(self._decoder.logits(hidden[self._tensor(wanted.rows)]))
        return [
            answer(sequence, logits[rows])
            for sequence, rows in zip(step, wanted.of_sequence, strict=True)
        ]

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int], num_prompt: int | None = None) -> NDArray[np.float32]:
        """Logits after each token of one sequence alone, beside the cache: (T, V).

        Args:
            tokens: The sequence.
            num_prompt: Leading tokens that are its prompt; None takes all of them.

        Raises:
            RequestError: no tokens, too many for the context, or ids outside the vocabulary.
            UnsupportedError: the model is an encoder.
        """
        check_tokens(tokens, context=self.context, vocabulary=self._decoder.spec.vocabulary)
        prefix = self._prefix(len(tokens) if num_prompt is None else num_prompt)
        hidden = self._decoder(self._tensor(tokens), Segments([len(tokens)], prefixes=[prefix]))
        parts = [self._decoder.logits(part) for part in torch.split(hidden, self.max_logit_rows)]
        return np.concatenate([self._numpy(part) for part in parts])

    @torch.inference_mode()
    def embed(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """One vector of each sequence, beside the cache: (sequences, E).

        Raises:
            RequestError: a sequence is empty, too long, or has ids outside the vocabulary.
            UnsupportedError: the model is no encoder.
        """
        if isinstance(self._decoder.spec.head, Head):
            raise UnsupportedError(
                f"a model of family {self._decoder.spec.family!r} gives logits, not vectors."
            )
        for tokens in sequences:
            check_tokens(tokens, context=self.context, vocabulary=self._decoder.spec.vocabulary)
        vectors = []
        for batch in _batches(sequences, self.max_step_tokens):
            lengths = [len(tokens) for tokens in batch]
            segments = Segments(lengths, prefixes=lengths)
            hidden = self._decoder(self._tensor([t for tokens in batch for t in tokens]), segments)
            vectors.append(self._numpy(self._decoder.pool(hidden, segments)))
        return np.concatenate(vectors)

    def close(self) -> None:
        """Free weights and cache; the executor cannot be used afterwards."""
        del self._decoder, self._cache

    def _prefix(self, num_prompt: int) -> int:
        return max(0, num_prompt - self._decoder.spec.prompt_tail)

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.long, device=self._device)

    @staticmethod
    def _numpy(values: torch.Tensor) -> NDArray[np.float32]:
        result: NDArray[np.float32] = values.float().cpu().numpy()
        return result


def _batches(sequences: Sequence[Sequence[int]], max_tokens: int) -> list[list[Sequence[int]]]:
    """Sequences in order, in batches of at most so many tokens, or of one sequence."""
    batches: list[list[Sequence[int]]] = []
    room = 0
    for tokens in sequences:
        if not batches or len(tokens) > room:
            batches.append([])
            room = max_tokens
        batches[-1].append(tokens)
        room -= len(tokens)
    return batches


class _Sizes:
    """How many blocks of each cache group fit where."""

    def __init__(
        self, spec: ModelSpec, context: int, step_tokens: int, sequences: int, kv_type: str
    ) -> None:
        self._groups = cache_layout(spec).groups
        self._is_encoder = not isinstance(spec.head, Head)
        self._context = context
        self._step_tokens = step_tokens
        self._sequences = sequences
        self._kv_bytes = 4 if kv_type == "float32" else 2

    def num_blocks(self, cache_bytes: int | None, device: torch.device) -> list[int]:
        """Blocks of each group, slots of the states; none for an encoder."""
        if self._is_encoder:
            return []
        per_context = sum(self._unit_bytes(group) * self._units(group) for group in self._groups)
        contexts = _DEFAULT_CACHE_CONTEXTS
        if any(group.kind == "state" for group in self._groups):
            contexts = self._sequences
        room = cache_bytes
        if room is None:
            room = min(int(_free_bytes(device) * _SHARE_OF_FREE_MEMORY), contexts * per_context)
        counts = [room * self._units(group) // per_context for group in self._groups]
        if min(counts) < 1:
            raise CapacityError(
                f"{room} bytes do not hold one block of every cache group: a sequence of "
                f"{self._context} tokens takes {per_context} bytes; give more cache_bytes."
            )
        return counts

    def _units(self, group: CacheGroup) -> int:
        """Blocks or slots that a sequence of the whole context takes."""
        if group.kind == "state":
            return 1
        tokens = self._context
        if group.window is not None:
            # Besides the window and a step's tokens, blocks at either end are partly unused.
            tokens = min(tokens, group.window + self._step_tokens + BLOCK_TOKENS)
        return math.ceil(tokens / BLOCK_TOKENS)

    def _unit_bytes(self, group: CacheGroup) -> int:
        if group.kind == "state":
            return group.slot_floats * 4
        return group.token_floats * BLOCK_TOKENS * self._kv_bytes


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return available_bytes()
