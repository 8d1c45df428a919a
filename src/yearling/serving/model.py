"""Opening a model by name or path, and building the engine that runs it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import Field

from yearling.core.config import Config
from yearling.core.errors import ConfigError
from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.executor import Executor

if TYPE_CHECKING:  # a server that only lists its models need not load NumPy and tokenizers
    import numpy as np
    from numpy.typing import NDArray

    from yearling.models.chat_template import ChatTemplate
    from yearling.models.checkpoint import Checkpoint
    from yearling.models.tokenizer import Tokenizer

__all__ = [
    "LoadedExecutor",
    "LoadedModel",
    "ModelOptions",
    "build_engine",
    "load_executor",
    "load_model",
    "new_engine",
]


class ModelOptions(Config):
    """How a model is run."""

    executor: Literal["auto", "native"] = Field(
        default="auto", description="What runs the steps; auto takes the native core."
    )
    weights: Literal["auto", "float32", "float16", "int8", "int4"] = Field(
        default="auto", description="Number format of the weights; auto keeps the file's."
    )
    kv_type: Literal["auto", "float32", "float16"] = Field(
        default="auto", description="Number format of the key/value cache."
    )
    context: int | None = Field(
        default=None, ge=1, description="Tokens of prompt and answer; None takes the model's."
    )
    cache_bytes: int | None = Field(
        default=None, ge=1, description="Size of the key/value cache; None chooses."
    )
    max_sequences: int = Field(default=128, ge=1, description="Requests running at once.")
    max_step_tokens: int = Field(default=512, ge=1, description="Tokens per step.")
    max_waiting: int | None = Field(
        default=256, ge=0, description="Requests queued beyond those; None sets no limit."
    )
    threads: int | None = Field(
        default=None, ge=1, description="Threads that compute; None takes one per core."
    )
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="Name of a chat template, or path of a .jinja file; None takes the model's.",
    )


class LoadedExecutor(Executor, Protocol):
    """An executor in this process, with what the Python API needs beyond steps."""

    def logits(self, tokens: Sequence[int]) -> "NDArray[np.float32]":
        """Logits [T, V] of a sequence on its own, beside the cache."""
        ...

    def close(self) -> None:
        """Free weights and cache."""
        ...


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """An opened model: everything but the weights.

    Attributes:
        name: As it was asked for.
        path: GGUF file or Hugging Face folder.
        options: How it is run.
        checkpoint: Its files.
        tokenizer: None when the files carry none; such a model takes and gives token ids.
        chat_template: None when the files carry none; such a model completes but cannot chat.
        context: Tokens of prompt and answer together.
        eos_token_ids: Ids that end an answer.
        chat_stop: Texts that end an answer in a chat, beside those ids.
    """

    name: str
    path: Path
    options: ModelOptions
    checkpoint: "Checkpoint"
    tokenizer: "Tokenizer | None"
    chat_template: "ChatTemplate | None"
    context: int
    eos_token_ids: tuple[int, ...]
    chat_stop: tuple[str, ...] = ()


def load_model(name: str | Path, options: ModelOptions | None = None) -> LoadedModel:
    """Open a model; headers and tokenizer are read, weights are not.

    Args:
        name: Name in the store, GGUF file, Hugging Face folder, or `hf:ORG/NAME`.
        options: How it will be run.

    Raises:
        ModelNotFoundError: nothing of that name is there.
        ModelFormatError: its files are malformed or of an unsupported kind.
        ConfigError: an option does not fit the model.
        TemplateError: the chat template does not fit the tokenizer.
    """
    from yearling.models.checkpoint import open_checkpoint
    from yearling.models.store import resolve

    options = options or ModelOptions()
    path = resolve(str(name))
    checkpoint = open_checkpoint(path)
    chat = _chat(checkpoint, options.chat_template)
    eos_token_ids = {*checkpoint.eos_token_ids, *chat.stop_token_ids}
    if chat.tokenizer is not None and chat.tokenizer.eos_id is not None:
        eos_token_ids.add(chat.tokenizer.eos_id)
    return LoadedModel(
        name=str(name),
        path=path,
        options=options,
        checkpoint=checkpoint,
        tokenizer=chat.tokenizer,
        chat_template=chat.template,
        context=_context(options.context, checkpoint.spec.context, path),
        eos_token_ids=tuple(sorted(eos_token_ids)),
        chat_stop=chat.stop_texts,
    )


def load_executor(model: LoadedModel) -> LoadedExecutor:
    """Read a model's weights and take memory for its cache.

    Raises:
        ModelFormatError: the files are malformed.
        UnsupportedError: no executor of this build runs such a model.
    """
    from yearling.serving.executors.native import NativeExecutor

    options = model.options
    return NativeExecutor.load(
        model.checkpoint,
        weights=options.weights,
        kv_type=options.kv_type,
        cache_bytes=options.cache_bytes,
        context=model.context,
        max_sequences=options.max_sequences,
        max_step_tokens=options.max_step_tokens,
        threads=options.threads,
    )


def new_engine(model: LoadedModel, executor: Executor) -> Engine:
    """The engine of a model over its executor."""
    options = model.options
    return Engine(
        executor,
        model.tokenizer,
        context=model.context,
        eos_token_ids=model.eos_token_ids,
        config=EngineConfig(
            max_sequences=options.max_sequences,
            max_step_tokens=options.max_step_tokens,
            max_waiting=options.max_waiting,
        ),
        vocabulary=model.checkpoint.spec.vocabulary,
    )


def build_engine(path: str, options: Mapping[str, Any]) -> Engine:
    """Open a model, load its weights and build its engine: what a worker process does first."""
    model = load_model(path, ModelOptions.model_validate(options))
    engine = new_engine(model, load_executor(model))
    model.checkpoint.close()
    return engine


def _context(asked: int | None, own: int, path: Path) -> int:
    if asked is not None and asked > own:
        raise ConfigError(
            f"context={asked} is more than the {own} tokens {path.name} was made for: "
            f"leave it out or set at most {own}."
        )
    return own if asked is None else asked


@dataclass(frozen=True, slots=True)
class _Chat:
    """Tokenizer and template as a model is used with them, and what else ends an answer."""

    tokenizer: "Tokenizer | None"
    template: "ChatTemplate | None"
    stop_token_ids: tuple[int, ...] = ()
    stop_texts: tuple[str, ...] = ()


def _chat(checkpoint: "Checkpoint", asked: str | None) -> _Chat:
    """Take the files' own template, or the one asked for by name or path."""
    if asked is None:
        return _Chat(checkpoint.tokenizer(), checkpoint.chat_template())
    from yearling.models.chat_templates import named_template, template_from_file

    is_path = asked.endswith(".jinja")
    template = template_from_file(Path(asked)) if is_path else named_template(asked)
    own = checkpoint.tokenizer()
    if own is None:
        raise ConfigError(
            f"chat_template={asked} needs a tokenizer, and this model came without one."
        )
    tokenizer = template.tokenizer(own)
    return _Chat(
        tokenizer,
        template.chat_template(tokenizer),
        template.stop_token_ids(tokenizer),
        template.stop_texts(tokenizer),
    )
