"""Models of other sizes for the benchmarks: published shapes, random 4-bit weights.

Speed does not ask what the weights say. Tokenizer and settings are those of a real file, so that
every engine reads these files as it reads that one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.serving.engine_process import BenchmarkError
from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.checkpoint.gguf_writer import GgufValue, write_gguf
from yearling.models.checkpoint.planned import PlannedTensor

__all__ = ["SHAPES", "Shape", "sized_model"]

_LARGEST_WEIGHT = 0.06
_ALIKE = "Q4_0"  # which every engine reads, and computes as it lies in the file


@dataclass(frozen=True, slots=True)
class Shape:
    """A LLaMA's sizes."""

    name: str
    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int

    def matrices(self, vocabulary: int) -> Iterator[tuple[str, tuple[int, int]]]:
        """Names and shapes; the head is the embedding."""
        kv = self.width // self.heads * self.kv_heads
        yield "token_embd", (vocabulary, self.width)
        for layer in range(self.layers):
            for name, shape in (
                ("attn_q", (self.width, self.width)),
                ("attn_k", (kv, self.width)),
                ("attn_v", (kv, self.width)),
                ("attn_output", (self.width, self.width)),
                ("ffn_gate", (self.hidden, self.width)),
                ("ffn_up", (self.hidden, self.width)),
                ("ffn_down", (self.width, self.hidden)),
            ):
                yield f"blk.{layer}.{name}", shape

    def parameters(self, vocabulary: int) -> int:
        """Numbers of all matrices."""
        return sum(rows * columns for _, (rows, columns) in self.matrices(vocabulary))


SHAPES = (
    Shape("SmolLM2-135M", 30, 576, 1536, 9, 3),
    Shape("SmolLM2-360M", 32, 960, 2560, 15, 5),
    Shape("Llama-3.2-1B", 16, 2048, 8192, 32, 8),
)
"""Smallest first; all with the vocabulary of the file that lends its tokenizer."""


def sized_model(shape: Shape, lender: Path, folder: Path) -> tuple[Path, int]:
    """Write a model of a shape where there is none yet.

    Args:
        shape: Its sizes.
        lender: A LLaMA's GGUF file, whose tokenizer and settings it gets.
        folder: Where it is kept.

    Returns:
        Its path, and the number of its parameters.

    Raises:
        BenchmarkError: the lender is no LLaMA.
    """
    source = GgufFile(lender)
    metadata: dict[str, GgufValue] = dict(source.metadata)
    source.close()
    if metadata.get("general.architecture") != "llama" or "llama.vocab_size" not in metadata:
        raise BenchmarkError(f"{lender} is no LLaMA that could lend its settings to other sizes.")
    vocabulary = int(source.metadata["llama.vocab_size"])
    path = folder / f"{shape.name}.random.{lender.stem}.{_ALIKE}.gguf"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_gguf(path, metadata | _settings(shape, metadata), _tensors(shape, vocabulary))
    return path, shape.parameters(vocabulary)


def _settings(shape: Shape, metadata: dict[str, GgufValue]) -> dict[str, GgufValue]:
    return {
        "general.name": f"random {shape.name}",
        "general.file_type": 2,
        "llama.block_count": shape.layers,
        "llama.embedding_length": shape.width,
        "llama.feed_forward_length": shape.hidden,
        "llama.attention.head_count": shape.heads,
        "llama.attention.head_count_kv": shape.kv_heads,
        "llama.rope.dimension_count": shape.width // shape.heads,
        "tokenizer.ggml.token_type": np.array(metadata["tokenizer.ggml.token_type"], np.int32),
    }


def _tensors(shape: Shape, vocabulary: int) -> list[PlannedTensor]:
    random = np.random.default_rng(2023)
    planned = [
        PlannedTensor(
            f"{name}.weight", _ALIKE, size, lambda size=size: _random_matrix(size, random)
        )
        for name, size in shape.matrices(vocabulary)
    ]
    norms = [
        "output_norm",
        *(f"blk.{n}.{part}_norm" for n in range(shape.layers) for part in ("attn", "ffn")),
    ]
    ones = np.ones(shape.width, np.float32)
    planned += [
        PlannedTensor(
            f"{name}.weight",
            "F32",
            ones.shape,
            lambda: StoredTensor("F32", ones.shape, ones.view(np.uint8)),
        )
        for name in norms
    ]
    return planned


def _random_matrix(size: tuple[int, int], random: np.random.Generator) -> StoredTensor:
    """Blocks of one scale and any codes."""
    num_bytes = BLOCK_FORMATS[_ALIKE].size(size)
    blocks = np.frombuffer(random.bytes(num_bytes), np.uint8).reshape(-1, 18).copy()
    blocks[:, :2] = np.array([_LARGEST_WEIGHT / 8], np.float16).view(np.uint8)
    return StoredTensor(_ALIKE, size, blocks.reshape(-1))
