"""Embeddings: texts to vectors, as lists of numbers or as base64 of float32.

Source: https://platform.openai.com/docs/api-reference/embeddings.

Legend: N texts, E numbers of a vector.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from yearling.core.errors import RequestError
from yearling.wire.limits import RequestLimits
from yearling.wire.openai.fields import read_fields
from yearling.wire.openai.inputs import read_inputs

__all__ = [
    "EmbeddingBody",
    "EmbeddingsRequest",
    "check_dimensions",
    "embedding_list",
    "parse_embeddings_request",
    "shorten",
]


class EmbeddingBody(BaseModel):
    """The fields of an embeddings request; OpenAI has no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=256, description="Name as /v1/models lists it.")
    input: Any = Field(description="Text, token ids, or a list of either.")
    encoding_format: Literal["float", "base64"] | None = Field(
        default=None, description="Numbers, or base64 of little-endian float32."
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="Keep so many leading numbers of each vector."
    )
    user: str | None = Field(
        default=None, max_length=256, description="Names the end user in the server's log."
    )


@dataclass(frozen=True, slots=True)
class EmbeddingsRequest:
    """An embeddings request in internal terms.

    Attributes:
        inputs: Each a text or a list of token ids.
        dimensions: Leading numbers to keep of each vector; None keeps all.
        is_base64: Vectors are sent as base64 of float32.
        user: Whom the caller acts for, for the log.
        field: What the request calls its inputs.
        is_cut: Whether a text longer than the model takes loses its end; it is refused otherwise.
    """

    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None
    is_base64: bool
    user: str | None
    field: str = "input"
    is_cut: bool = False

    def place(self, index: int) -> str:
        """How an error names an input: by its index when there are several."""
        return self.field if len(self.inputs) == 1 else f"{self.field}[{index}]"

    def check_inputs(self) -> None:
        """Refuse inputs without text.

        Raises:
            RequestError: one is empty.
        """
        for index, text in enumerate(self.inputs):
            if not text:
                where = self.place(index)
                raise RequestError(f"{where} is empty: a vector needs a text.", parameter=where)


def parse_embeddings_request(body: Mapping[str, Any], limits: RequestLimits) -> EmbeddingsRequest:
    """Check a request body and put it in internal terms.

    Raises:
        RequestError: a field is wrong or unknown; `parameter` names it.
    """
    fields = read_fields(EmbeddingBody, body, {})
    request = EmbeddingsRequest(
        model=fields.model,
        inputs=read_inputs(fields.input, "input", limits.inputs),
        dimensions=fields.dimensions,
        is_base64=fields.encoding_format == "base64",
        user=fields.user,
    )
    request.check_inputs()
    return request


def check_dimensions(dimensions: int | None, width: int) -> None:
    """Refuse to make vectors longer.

    Raises:
        RequestError: the model's vectors have fewer numbers than asked for.
    """
    if dimensions is not None and dimensions > width:
        raise RequestError(
            f"dimensions is {dimensions}, but this model's vectors have {width} numbers.",
            parameter="dimensions",
        )


def shorten(vectors: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Keep the leading numbers of each vector (N, E), and bring what is cut to unit length.

    >>> shorten(np.array([[0.6, 0.0, 0.8]], np.float32), 2)
    array([[1., 0.]], dtype=float32)
    """
    if dimensions is None or dimensions == vectors.shape[1]:
        return vectors
    cut = vectors[:, :dimensions]
    lengths: NDArray[np.float32] = np.linalg.norm(cut, axis=1, keepdims=True)
    shortened = np.zeros_like(cut)
    np.divide(cut, lengths, out=shortened, where=lengths > 0)
    return shortened


def embedding_list(
    model: str, vectors: NDArray[np.float32], *, num_tokens: int, is_base64: bool
) -> dict[str, Any]:
    """The body of an answer: one vector of (N, E) per input, in order."""
    rows = [_base64(row) for row in vectors] if is_base64 else vectors.tolist()
    data = [
        {"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)
    ]
    usage = {"prompt_tokens": num_tokens, "total_tokens": num_tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
