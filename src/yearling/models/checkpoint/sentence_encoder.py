"""What a sentence-transformers folder adds to a model: how a text becomes one vector.

`modules.json` lists the steps: the transformer, a pooling with a configuration of its own, and
perhaps a normalisation. `sentence_bert_config.json` bounds the length of a text.

Source: Reimers and Gurevych 2019, arXiv:1908.10084; https://sbert.net.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from yearling.core.errors import ModelFormatError
from yearling.models.fields import Fields
from yearling.models.json_file import read_json_array, read_json_object
from yearling.models.spec import ModelSpec, Pooling

__all__ = ["with_sentence_settings"]

_MAX_BYTES = 1 << 20
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_KINDS: Mapping[str, Literal["mean", "first", "last"]] = {
    "mean": "mean",
    "cls": "first",
    "lasttoken": "last",
}
# The flags of older files, one of which is set.
_FLAGS: Mapping[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def with_sentence_settings(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The spec with the pooling and the length that a folder's files ask for.

    A folder without `modules.json` keeps its spec.

    Raises:
        ModelFormatError: a file is malformed, or asks for a step that is not computed.
    """
    path = folder / "modules.json"
    if not path.exists():
        return spec
    kinds = _steps(read_json_array(path, _MAX_BYTES), path)
    pooling = Pooling(
        _pooling_kind(folder / kinds["Pooling"] / "config.json"), "Normalize" in kinds
    )
    _refuse_default_prompt(folder / "config_sentence_transformers.json")
    context = _longest_text(folder / "sentence_bert_config.json", spec.context)
    return replace(spec, head=pooling, context=context)


def _steps(entries: list[Any], path: Path) -> dict[str, str]:
    """Folder of each step by its kind."""
    steps: dict[str, str] = {}
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ModelFormatError(f"{path}: entry {number} must be an object.")
        fields = Fields(entry, f"{path}, entry {number}")
        steps[fields.text("type").rpartition(".")[2]] = fields.text("path", "")
    if tuple(steps) not in (("Transformer", "Pooling"), ("Transformer", "Pooling", "Normalize")):
        raise ModelFormatError(
            f"{path}: asks for the steps {', '.join(steps)}; only Transformer, Pooling and perhaps "
            f"Normalize are computed, in this order."
        )
    if steps["Transformer"] or not _FOLDER.fullmatch(steps["Pooling"]):
        raise ModelFormatError(
            f"{path}: the transformer must lie in the folder itself, and the pooling in one beside "
            f"it, not in {steps['Transformer']!r:.80} and {steps['Pooling']!r:.80}."
        )
    return steps


def _pooling_kind(path: Path) -> Literal["mean", "first", "last"]:
    fields = Fields(read_json_object(path, _MAX_BYTES), str(path))
    if "pooling_mode" in fields:
        kind = fields.text("pooling_mode")
    else:
        kind = "+".join(kind for key, kind in _FLAGS.items() if fields.flag(key, False))
    if kind not in _KINDS:
        raise ModelFormatError(
            f"{path}: pools by {kind or 'nothing'!r}; computed are {', '.join(_KINDS)}."
        )
    return _KINDS[kind]


def _refuse_default_prompt(path: Path) -> None:
    if not path.exists():
        return
    fields = Fields(read_json_object(path, _MAX_BYTES), str(path))
    if "default_prompt_name" in fields:
        raise fields.error(
            "default_prompt_name",
            "puts a prompt before every text, which is not done here. Set it to null, and write "
            "the prompt in front of the texts",
        )


def _longest_text(path: Path, context: int) -> int:
    if not path.exists():
        return context
    fields = Fields(read_json_object(path, _MAX_BYTES), str(path))
    if fields.flag("do_lower_case", False):
        raise fields.error("do_lower_case", "is not done here; a tokenizer lowers letters itself")
    return min(context, fields.integer("max_seq_length", context, minimum=1))
