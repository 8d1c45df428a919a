"""Which chat template a model was trained with, and whether it is asked through another one.

A run's card lies in the folder of the model that it made; serving reads the one thing of it that
decides whether a prompt looks as it did in training.
"""

from hashlib import sha256
from pathlib import Path

from yearling.core.errors import ModelError
from yearling.models.json_file import read_json_object

__all__ = ["RUN_FILE", "TEMPLATE_FILE", "hash_template", "template_change"]

RUN_FILE = "run.json"
"""The card of a training run, in its folder and in that of the model."""

TEMPLATE_FILE = "chat_template.jinja"

_MAX_CARD_BYTES = 16 << 20


def hash_template(source: str) -> str:
    """SHA-256 of a chat template's text, in hex."""
    return sha256(source.encode()).hexdigest()


def template_change(folder: Path, source: str) -> str | None:
    """Say that a model is asked through another chat template than it was trained with.

    Args:
        folder: Of the model; one without a card was not trained here, and nothing is said of it.
        source: Text of the template that is used now.
    """
    path = folder / RUN_FILE
    if not path.is_file():
        return None
    try:
        trained = read_json_object(path, _MAX_CARD_BYTES).get("chat_template")
    except ModelError as error:
        return f"whether {folder} was trained with this chat template is not known: {error}"
    used = hash_template(source)
    if not isinstance(trained, str) or trained == used:
        return None  # its rows were no conversations, or these were written the same way
    return (
        f"{folder} was trained with chat template {trained[:12]} and is asked through "
        f"{used[:12]}: prompts differ from those that it has learned, and answers get worse. "
        f"Leave chat_template out, and {TEMPLATE_FILE} as the run wrote it."
    )
