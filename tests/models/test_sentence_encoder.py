"""Settings of sentence-transformers folders: each step is computed, or refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.sentence_encoder import with_sentence_settings
from yearling.models.families.bert import spec_from_config
from yearling.models.fields import Fields
from yearling.models.spec import ModelSpec, Pooling

SPEC = spec_from_config(
    Fields(
        {
            "vocab_size": 97,
            "hidden_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 4,
            "intermediate_size": 48,
        },
        "config.json",
    )
)
STEPS = ("Transformer", "Pooling", "Normalize")
OLD = {
    "word_embedding_dimension": 32,
    "pooling_mode_cls_token": False,
    "pooling_mode_mean_tokens": True,
    "pooling_mode_max_tokens": False,
}


def read(
    folder: Path,
    *,
    steps: tuple[str, ...] = STEPS,
    pooling: Any = OLD,
    **files: Any,
) -> ModelSpec:
    """Write a folder's settings and read them."""
    entries = [
        {"path": f"{number}_{kind}" if number else "", "type": f"sentence_transformers.{kind}"}
        for number, kind in enumerate(steps)
    ]
    contents = {"modules": entries, "1_Pooling/config": pooling, **files}
    (folder / "1_Pooling").mkdir()
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return with_sentence_settings(SPEC, folder)


def test_folder_without_modules_keeps_its_spec(tmp_path: Path) -> None:
    assert with_sentence_settings(SPEC, tmp_path) is SPEC


@pytest.mark.parametrize(
    ("pooling", "kind"),
    [
        (OLD, "mean"),
        (OLD | {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "first"),
        ({"pooling_mode": "lasttoken"}, "last"),
        ({"pooling_mode": "cls", "embedding_dimension": 32}, "first"),
    ],
)
def test_pooling_is_that_of_its_file(tmp_path: Path, pooling: dict, kind: str) -> None:
    assert read(tmp_path, pooling=pooling).head == Pooling(kind, is_normalised=True)  # type: ignore[arg-type]


def test_vectors_are_normalised_only_when_a_step_says_so(tmp_path: Path) -> None:
    assert read(tmp_path, steps=STEPS[:2]).head == Pooling("mean", is_normalised=False)


def test_longest_text_bounds_the_context(tmp_path: Path) -> None:
    settings = {"max_seq_length": 256, "do_lower_case": False}
    assert read(tmp_path, sentence_bert_config=settings).context == 256


@pytest.mark.parametrize("length", [None, 4096])
def test_longest_text_is_at_most_the_positions(tmp_path: Path, length: int | None) -> None:
    settings = {"max_seq_length": length}
    assert read(tmp_path, sentence_bert_config=settings).context == SPEC.context == 512


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": ("Transformer",)}, "asks for the steps Transformer; only"),
        ({"steps": (*STEPS[:2], "Dense")}, "asks for the steps Transformer, Pooling, Dense"),
        ({"steps": ("Transformer", "Normalize", "Pooling")}, "in this order"),
        ({"modules": {}}, "must hold one JSON array"),
        ({"modules": [5]}, "entry 0 must be an object"),
        ({"modules": [{"path": ""}]}, "entry 0: type is missing"),
        (
            {"modules": [{"type": "Transformer"}, {"type": "Pooling", "path": "../x"}]},
            r"must lie in the folder itself.*'\.\./x'",
        ),
        (
            {"modules": [{"type": "Transformer", "path": "0"}, {"type": "Pooling", "path": "1"}]},
            "must lie in the folder itself",
        ),
        ({"pooling": {"pooling_mode": "max"}}, "pools by 'max'; computed are mean, cls"),
        ({"pooling": OLD | {"pooling_mode_max_tokens": True}}, r"pools by 'mean\+max'"),
        ({"pooling": {}}, "pools by 'nothing'"),
        ({"pooling": {"pooling_mode": ["mean", "max"]}}, "pooling_mode=.* must be a string"),
        ({"sentence_bert_config": {"max_seq_length": 0}}, "max_seq_length=0 must be from 1"),
        ({"sentence_bert_config": {"do_lower_case": True}}, "do_lower_case=True is not done"),
        (
            {"config_sentence_transformers": {"default_prompt_name": "query"}},
            "default_prompt_name='query' puts a prompt before every text",
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_step_that_is_not_computed_is_refused(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelFormatError, match=message):
        read(tmp_path, **settings)
