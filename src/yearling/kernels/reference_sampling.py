"""The meaning of choosing a token, in NumPy: what the native core's sampling is tested by.

Legend: V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

__all__ = ["SamplingOptions", "filtered_weights", "log_softmax", "penalised", "sample", "uniform"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to choose a token; the meaning of each field is `SamplingParams`'."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    output_index: int = 0
    history: Sequence[int] = ()
    num_generated: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    allowed: bytes | None = None


def uniform(seed: int, index: int) -> float:
    """Draw from [0, 1) with 53 bits: Philox4x32-10 keyed by the seed, at counter (index, 0).

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    mask = 0xFFFFFFFF
    counter = [index & mask, index >> 32 & mask, 0, 0]
    key = [seed & mask, seed >> 32 & mask]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (b >> 32) ^ counter[1] ^ key[0],
            b & mask,
            (a >> 32) ^ counter[3] ^ key[1],
            a & mask,
        ]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return ((counter[0] << 32 | counter[1]) >> 11) / 2**53


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities in nats, over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def penalised(logits: Floats, options: SamplingOptions) -> Floats:
    """Logits (V,) after repetition, presence and frequency penalties, bias and mask."""
    changed = logits.copy()
    for token in set(options.history):
        factor = options.repetition_penalty
        changed[token] *= 1 / factor if changed[token] > 0 else factor
    generated = list(options.history)[len(options.history) - options.num_generated :]
    for token in set(generated):
        changed[token] -= options.presence_penalty
        changed[token] -= options.frequency_penalty * generated.count(token)
    for token, bias in options.logit_bias.items():
        changed[token] += bias
    if options.allowed is not None:
        bits = np.unpackbits(np.frombuffer(options.allowed, np.uint8), bitorder="little")
        changed[bits[: len(changed)] == 0] = -np.inf
    return changed


def filtered_weights(logits: Floats, options: SamplingOptions) -> Floats:
    """Weights (V,) after temperature, top-k, top-p and min-p; the likeliest token has 1."""
    weights = np.exp((logits - logits.max()) / options.temperature)
    if options.top_k or options.top_p < 1:
        order = np.argsort(-weights, kind="stable")  # ties to the lower id
    if options.top_k:
        weights[order[options.top_k :]] = 0
    if options.top_p < 1:
        held = np.cumsum(weights[order])
        enough = int(np.searchsorted(held, options.top_p * held[-1]))
        weights[order[enough + 1 :]] = 0
    weights[weights < options.min_p] = 0
    return np.asarray(weights)


def sample(logits: Floats, options: SamplingOptions) -> int:
    """Choose a token: one draw through the cumulative weights in order of ids."""
    logits = penalised(logits, options)
    if options.temperature == 0:
        return int(np.argmax(logits))
    held = np.cumsum(filtered_weights(logits, options))
    wanted = uniform(options.seed, options.output_index) * held[-1]
    return int(np.searchsorted(held, wanted, side="right"))
