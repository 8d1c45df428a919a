"""Sentence vectors of tiny BERTs, and of the real MiniLM, against transformers' own class.

The pooling is written out here as sentence-transformers defines it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from benchmarks.embeddings.sentences import mixed_texts
from tests.parity.case import change_attention
from tests.parity.executors import EXECUTORS, WithSpec
from yearling import LLM
from yearling.models.checkpoint import open_checkpoint
from yearling.models.spec import ModelSpec, Pooling, PostNorm

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.timeout(120)]

Vectors = NDArray[np.float32]
CONFIG = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
POOLINGS = {
    "mean": lambda rows: rows.mean(axis=0),
    "cls": lambda rows: rows[0],
    "lasttoken": lambda rows: rows[-1],
}
TOLERANCE = 1e-5


class Embedder(Protocol):
    def embed(self, sequences: Sequence[Sequence[int]]) -> Vectors: ...


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A folder without sentence-transformers' files, and the model that it holds."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    model = BertModel(BertConfig(**CONFIG), add_pooling_layer=False).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    folder = tmp_path_factory.mktemp("bert")
    model.save_pretrained(folder)
    return folder, model


def texts() -> list[list[int]]:
    random = np.random.default_rng(5)
    return [random.integers(0, 97, length).tolist() for length in (1, 2, 17, 64, 5, 33)]


def hidden_rows(model: Any, tokens: Sequence[int]) -> Vectors:
    import torch

    with torch.no_grad():
        return cast("Vectors", model(torch.tensor([list(tokens)])).last_hidden_state[0].numpy())


def expected(model: Any, pool: Callable[[Vectors], Vectors], *, is_normalised: bool) -> Vectors:
    vectors = np.stack([pool(hidden_rows(model, tokens)) for tokens in texts()])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if is_normalised else vectors


def write_modules(folder: Path, pooling: dict[str, Any], *, is_normalised: bool) -> None:
    kinds = ["Transformer", "Pooling", *(["Normalize"] if is_normalised else [])]
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "", "type": f"any.{kind}"}
        for n, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))


def embed(folder: Path, executor: str, change: Callable[[ModelSpec], ModelSpec]) -> Vectors:
    checkpoint = open_checkpoint(folder)
    made = EXECUTORS[executor](WithSpec(checkpoint, change(checkpoint.spec), 64))
    return cast("Embedder", made).embed(texts())


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("kind", POOLINGS)
def test_vectors_are_those_of_transformers(
    tiny: tuple[Path, Any], tmp_path: Path, kind: str, executor: str
) -> None:
    folder, model = tiny
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    is_normalised = kind != "cls"
    write_modules(tmp_path, {"pooling_mode": kind}, is_normalised=is_normalised)
    ours = embed(tmp_path, executor, lambda spec: spec)
    theirs = expected(model, POOLINGS[kind], is_normalised=is_normalised)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def test_names_may_begin_with_the_models(tiny: tuple[Path, Any], tmp_path: Path) -> None:
    folder, model = tiny
    tensors = load_file(folder / "model.safetensors")
    head = {"cls.predictions.bias": np.zeros(97, np.float32)}
    save_file(
        {f"bert.{name}": tensor for name, tensor in tensors.items()} | head,
        tmp_path / "model.safetensors",
    )
    (tmp_path / "config.json").symlink_to(folder / "config.json")
    ours = embed(tmp_path, "native", lambda spec: spec)
    theirs = expected(model, POOLINGS["mean"], is_normalised=True)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


def _without(spec: ModelSpec, part: str) -> ModelSpec:
    match part:
        case "both directions":
            return change_attention(spec, mask="causal")
        case "token types":
            return replace(spec, embedding=replace(spec.embedding, token_types=None))
        case "norm of the embedding":
            return replace(spec, embedding=replace(spec.embedding, norm=None))
        case "positions":
            return replace(
                spec, embedding=replace(spec.embedding, positions=None, token_types=None)
            )
        case "residual":
            layer = spec.layers[0]
            assert isinstance(layer.residual, PostNorm)
            weak = replace(layer, residual=replace(layer.residual, alpha=0.5))
            return replace(spec, layers=(weak, *spec.layers[1:]))
    return replace(spec, head=Pooling("first"))


@pytest.mark.parametrize(
    "part",
    ["both directions", "token types", "norm of the embedding", "positions", "residual", "mean"],
)
def test_every_part_shows(tiny: tuple[Path, Any], part: str) -> None:
    folder, model = tiny
    theirs = expected(model, POOLINGS["mean"], is_normalised=True)
    ours = embed(folder, "native", lambda spec: _without(spec, part))
    assert np.abs(ours - theirs).max() > 100 * TOLERANCE


@pytest.mark.parametrize("executor", EXECUTORS)
def test_decoder_that_pools_its_last_token_is_an_encoder_too(tmp_path: Path, executor: str) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(4)
    sizes = CONFIG | {"num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": True}
    model = Qwen3ForCausalLM(Qwen3Config(**sizes)).eval()
    model.save_pretrained(tmp_path)
    write_modules(tmp_path, {"pooling_mode_lasttoken": True}, is_normalised=True)
    ours = embed(tmp_path, executor, lambda spec: spec)
    theirs = expected(model.model, POOLINGS["lasttoken"], is_normalised=True)
    np.testing.assert_allclose(ours, theirs, atol=TOLERANCE)


@pytest.mark.slow
def test_minilm_gives_the_vectors_of_transformers(minilm_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(minilm_path).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm_path)
    sentences = mixed_texts(20)
    with LLM(minilm_path) as llm:
        ours = llm.embed(sentences)
    for sentence, vector in zip(sentences, ours, strict=True):
        mean = hidden_rows(model, tokenizer(sentence)["input_ids"]).mean(axis=0)
        assert float(vector @ mean) / float(np.linalg.norm(mean)) > 0.9999
        assert float(np.linalg.norm(vector)) == pytest.approx(1.0, abs=1e-5)
