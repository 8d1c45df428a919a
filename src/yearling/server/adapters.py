"""An adapter as a model that a server serves: its base's engine, its own name and template."""

import asyncio
import hashlib
import time
from dataclasses import replace
from pathlib import Path

from yearling.core.errors import RequestError
from yearling.models.chat_template import ChatTemplate
from yearling.models.trained_template import TEMPLATE_FILE
from yearling.server.models import ServedModel

__all__ = ["adapter_of"]


async def adapter_of(base: ServedModel, name: str, folder: Path) -> ServedModel:
    """Describe an adapter of a served model; its engine does not know it yet.

    The chat template that it was trained with, where one lies beside it, is the one it chats by.

    Raises:
        RequestError: the base is an adapter itself, or the folder cannot be looked into.
        TemplateError: its template does not fit the tokenizer.
    """
    if base.base is not None:
        raise RequestError(
            f"{base.name} is an adapter itself: name the model {base.base}.",
            parameter="base_model_name",
        )
    try:
        template = await asyncio.to_thread(_template, base, folder)
        changed = [file.stat().st_mtime_ns for file in sorted(folder.glob("adapter_*"))]
    except (OSError, ValueError) as error:
        raise RequestError(f"{str(folder)!r:.200}: {error}", parameter="lora_path") from error
    identity = f"{base.fingerprint} {folder} {changed}"
    return replace(
        base,
        name=name,
        base=base.name,
        chat_template=template,
        fingerprint="fp_" + hashlib.sha256(identity.encode()).hexdigest()[:12],
        created=int(time.time()),
    )


def _template(base: ServedModel, folder: Path) -> ChatTemplate | None:
    path = folder / TEMPLATE_FILE
    if base.chat_template is None or not path.is_file():
        return base.chat_template
    template = ChatTemplate(path.read_text(encoding="utf-8"), base.tokenizer)
    template.prepare()
    return template
