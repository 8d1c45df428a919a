"""Opening a model by name or path, and building the engine that runs it."""

import gc
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

from pydantic import Field

from yearling.core.config import Config
from yearling.core.errors import ConfigError, UnsupportedError
from yearling.serving.encoder_engine import EncoderEngine
from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.executor import Executor

if TYPE_CHECKING:  # a server that only lists its models need not load NumPy and tokenizers
    import numpy as np
    from numpy.typing import NDArray

    from yearling.models.chat_template import ChatTemplate
    from yearling.models.checkpoint import Checkpoint
    from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint
    from yearling.models.tokenizer import Tokenizer
    from yearling.serving.drafts import Drafter

__all__ = [
    "LoadedExecutor",
    "LoadedModel",
    "ModelOptions",
    "TextEncoder",
    "build_engine",
    "load_executor",
    "load_model",
    "new_engine",
    "quick_load",
]

_log = logging.getLogger(__name__)
# Twice the rows that share unpacked weights; what a step writes stays near the processor.
_NATIVE_STEP_TOKENS = 192
_TORCH_STEP_TOKENS = 512
_DRAFT_STEP_TOKENS = 192  # it reads while others wait


class ModelOptions(Config):
    """How a model is run."""

    executor: Literal["auto", "native", "torch", "transformers"] = Field(
        default="auto",
        description="What runs the steps; auto takes the native core, and transformers for a "
        "folder that no family covers.",
    )
    device: str = Field(
        default="cpu", min_length=1, description="Where torch and transformers compute."
    )
    weights: Literal["auto", "float32", "float16", "int8", "int4"] = Field(
        default="auto", description="Number format of the weights; auto keeps the file's."
    )
    kv_type: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        default="auto", description="Number format of the key/value cache."
    )
    context: int | None = Field(
        default=None, ge=1, description="Tokens of prompt and answer; None takes the model's."
    )
    cache_bytes: int | None = Field(
        default=None, ge=1, description="Size of the key/value cache; None chooses."
    )
    max_sequences: int = Field(default=128, ge=1, description="Requests running at once.")
    max_step_tokens: int | None = Field(
        default=None, ge=1, description="Tokens per step; None takes what the executor likes best."
    )
    max_waiting: int | None = Field(
        default=256, ge=0, description="Requests queued beyond those; None sets no limit."
    )
    use_prefix_cache: bool = Field(default=True, description="Reuse what equal prompts computed.")
    speculation: Literal["none", "prompt_lookup"] = Field(
        default="prompt_lookup", description="Where guesses at an answer's tokens come from."
    )
    draft_model: str | None = Field(
        default=None,
        min_length=1,
        description="A smaller model of the same tokens that guesses instead.",
    )
    max_guesses: int = Field(
        default=7, ge=1, le=63, description="Guesses that a step checks of one answer."
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

    def logits(self, tokens: Sequence[int], num_prompt: int | None = None) -> "NDArray[np.float32]":
        """Logits [T, V] of a sequence on its own, beside the cache; None: it is all prompt."""
        ...

    def close(self) -> None:
        """Free weights and cache."""
        ...


class TextEncoder(LoadedExecutor, Protocol):
    """The executor of an encoder: it has no cache and generates nothing."""

    def embed(self, sequences: Sequence[Sequence[int]]) -> "NDArray[np.float32]":
        """One vector for each sequence [n, E]."""
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
        vocabulary: Token ids run from 0 to here.
        eos_token_ids: Ids that end an answer.
        embedding_width: Numbers of a vector, in an encoder; None in a model that generates text.
        chat_stop: Texts that end an answer in a chat, beside those ids.
    """

    name: str
    path: Path
    options: ModelOptions
    checkpoint: "Checkpoint | FallbackCheckpoint"
    tokenizer: "Tokenizer | None"
    chat_template: "ChatTemplate | None"
    context: int
    vocabulary: int
    eos_token_ids: tuple[int, ...]
    embedding_width: int | None = None
    chat_stop: tuple[str, ...] = ()

    @property
    def reads_prompts_apart(self) -> bool:
        """Whether a token of a prompt is computed otherwise than one of an answer."""
        from yearling.models.cache_layout import cache_layout
        from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint

        if isinstance(self.checkpoint, FallbackCheckpoint):
            return self.checkpoint.is_encoder_decoder
        return cache_layout(self.checkpoint.spec).needs_whole_prompt


def load_model(name: str | Path, options: ModelOptions | None = None) -> LoadedModel:
    """Open a model; headers and tokenizer are read, weights are not.

    A chat template that is not the one it was trained with is warned of.

    Args:
        name: Name in the store, GGUF file, Hugging Face folder, or `hf:ORG/NAME`.
        options: How it will be run.

    Raises:
        ModelNotFoundError: nothing of that name is there.
        ModelFormatError: its files are malformed or of an unsupported kind.
        ConfigError: an option does not fit the model.
        TemplateError: the chat template does not fit the tokenizer.
    """
    model = _load(name, options or ModelOptions())
    if model.chat_template is not None:
        from yearling.models.trained_template import template_change

        change = template_change(model.path, model.chat_template.source)
        if change is not None:
            _log.warning("%s", change)
    return model


def _load(name: str | Path, options: ModelOptions) -> LoadedModel:
    from yearling.models.chat_format import chat_format
    from yearling.models.store import resolve

    path = resolve(str(name))
    checkpoint, shape = _open(path, options)
    chat = chat_format(checkpoint, options.chat_template)
    return LoadedModel(
        name=str(name),
        path=path,
        options=options,
        checkpoint=checkpoint,
        tokenizer=chat.tokenizer,
        chat_template=chat.template,
        context=_context(options.context, shape.context, path),
        vocabulary=shape.vocabulary,
        eos_token_ids=chat.end_token_ids,
        embedding_width=shape.embedding_width,
        chat_stop=chat.stop_texts,
    )


def load_executor(model: LoadedModel) -> LoadedExecutor:
    """Read a model's weights and take memory for its cache.

    Raises:
        ModelFormatError: the files are malformed.
        UnsupportedError: no executor of this build runs such a model, or what it needs is not
            installed.
        ConfigError: an option does not fit the executor.
        CapacityError: its cache does not fit the memory it was given.
    """
    from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint

    if isinstance(model.checkpoint, FallbackCheckpoint):
        return _load_transformers(model, model.checkpoint)
    if model.options.executor == "torch":
        return _load_torch(model, model.checkpoint)
    return _load_native(model, model.checkpoint)


def new_engine(model: LoadedModel, executor: LoadedExecutor) -> Engine | EncoderEngine:
    """The engine of a model over its executor; an encoder has one of its own kind."""
    options = model.options
    if options.draft_model is not None and options.speculation == "none":
        raise ConfigError(
            f"speculation=none and draft_model={options.draft_model} contradict each other: leave "
            "one of them out."
        )
    if options.draft_model is not None and not executor.takes_guesses:
        raise ConfigError(
            f"draft_model={options.draft_model}: {model.name} cannot take back tokens that were "
            "guessed wrong. Guesses need the native core, and a decoder whose layers all attend "
            "to the whole text; leave the draft out."
        )
    if model.embedding_width is not None:
        max_waiting = options.max_waiting
        return EncoderEngine(
            cast("TextEncoder", executor),
            context=model.context,
            vocabulary=model.vocabulary,
            max_requests=None if max_waiting is None else options.max_sequences + max_waiting,
        )
    return Engine(
        executor,
        model.tokenizer,
        context=model.context,
        eos_token_ids=model.eos_token_ids,
        config=EngineConfig(
            max_sequences=options.max_sequences,
            max_step_tokens=executor.max_step_tokens,
            max_waiting=options.max_waiting,
            use_prefix_cache=options.use_prefix_cache,
            speculation="draft_model" if options.draft_model else options.speculation,
            max_guesses=options.max_guesses,
        ),
        vocabulary=model.vocabulary,
        drafter=None if options.draft_model is None else _draft_of(model, options.draft_model),
    )


def _draft_of(model: LoadedModel, name: str) -> "Drafter":
    from yearling.models.store import ensure
    from yearling.serving.draft_model import DraftModel

    ensure(name)
    options = ModelOptions(
        threads=model.options.threads,
        max_sequences=model.options.max_guesses,  # no more answers at once are guessed at
        max_step_tokens=_DRAFT_STEP_TOKENS,
        max_waiting=None,
        speculation="none",
    )
    draft = _load(name, options)
    context = min(draft.context, model.context)
    draft = replace(draft, context=context)
    with ExitStack() as opened:
        opened.callback(draft.checkpoint.close)
        if not _has_same_tokens(draft, model):
            raise ConfigError(
                f"draft_model={name} has other tokens than {model.name}: take a smaller model of "
                "the same family."
            )
        executor = load_executor(draft)
        opened.callback(executor.close)
        engine = new_engine(draft, executor)
        if not isinstance(engine, Engine) or not executor.can_share_prefixes:
            raise ConfigError(
                f"draft_model={name} cannot go on from what it has read: take a decoder without "
                "states."
            )
        return DraftModel(engine, vocabulary=model.vocabulary, close=opened.pop_all().close)


def _has_same_tokens(draft: LoadedModel, model: LoadedModel) -> bool:
    ours, theirs = model.tokenizer, draft.tokenizer
    if ours is None or theirs is None or ours.vocabulary_size != theirs.vocabulary_size:
        return False
    return all(
        ours.token_bytes(token) == theirs.token_bytes(token)
        for token in range(ours.vocabulary_size)
    )


@contextmanager
def quick_load(path: Path, options: ModelOptions) -> Iterator[None]:
    """Load a model in here: memory for its weights is prefaulted, the cyclic collector sleeps.

    A vocabulary has so many objects that the collector would walk all of them several times.

    Args:
        path: GGUF file or Hugging Face folder; memory is prefaulted for a file whose numbers keep
            their size.
        options: How the model will be run.
    """
    from yearling.core.memory import available_bytes
    from yearling.kernels import _native

    is_kept = options.executor in ("auto", "native") and options.weights == "auto"
    room = path.stat().st_size if is_kept and path.is_file() else 0
    memory = _native.WeightMemory(min(room, available_bytes() // 2)) if room else None
    was_collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_collecting:
            gc.enable()
        del memory  # from here on the packed matrices alone keep it


def build_engine(path: str, options: Mapping[str, Any]) -> Engine | EncoderEngine:
    """Open a model, load its weights and build its engine: what a worker process does first."""
    how = ModelOptions.model_validate(options)
    with quick_load(Path(path), how):
        model = _load(path, how)
        engine = new_engine(model, load_executor(model))
    model.checkpoint.close()
    return engine


@dataclass(frozen=True, slots=True)
class _Shape:
    """What serving asks of a model before its weights are read."""

    context: int
    vocabulary: int
    embedding_width: int | None


def _open(path: Path, options: ModelOptions) -> "tuple[Checkpoint | FallbackCheckpoint, _Shape]":
    from yearling.models.checkpoint import open_checkpoint
    from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint, needs_fallback
    from yearling.models.spec import Pooling

    if options.executor == "transformers" and not path.is_dir():
        raise ConfigError(
            f"executor=transformers reads model folders, and {path.name} is a file: leave it out."
        )
    if options.executor == "transformers" or (options.executor == "auto" and needs_fallback(path)):
        folder = FallbackCheckpoint(path)
        return folder, _Shape(folder.context, folder.vocabulary, None)
    checkpoint = open_checkpoint(path)
    spec = checkpoint.spec
    width = spec.width if isinstance(spec.head, Pooling) else None
    return checkpoint, _Shape(spec.context, spec.vocabulary, width)


def _load_native(model: LoadedModel, checkpoint: "Checkpoint") -> LoadedExecutor:
    from yearling.serving.executors.native import NativeExecutor

    options = model.options
    _refuse_options(options, "the native core", device="cpu")
    return NativeExecutor.load(
        checkpoint,
        weights=options.weights,
        kv_type=options.kv_type,
        cache_bytes=options.cache_bytes,
        context=model.context,
        max_sequences=options.max_sequences,
        # Everybody who runs gets a token a step.
        max_step_tokens=options.max_step_tokens or max(_NATIVE_STEP_TOKENS, options.max_sequences),
        threads=options.threads,
    )


def _load_torch(model: LoadedModel, checkpoint: "Checkpoint") -> LoadedExecutor:
    with _needs_train_extra("torch"):
        from yearling.serving.executors.torch import TorchExecutor

    options = model.options
    weights: Any = options.weights  # it refuses what it does not compute on
    return TorchExecutor.load(
        checkpoint,
        weights=weights,
        kv_type=options.kv_type,
        cache_bytes=options.cache_bytes,
        context=model.context,
        max_sequences=options.max_sequences,
        max_step_tokens=options.max_step_tokens or _TORCH_STEP_TOKENS,
        threads=options.threads,
        device=options.device,
    )


def _load_transformers(model: LoadedModel, checkpoint: "FallbackCheckpoint") -> LoadedExecutor:
    with _needs_train_extra("transformers"):
        import transformers  # noqa: F401  # a heavy import of the next line's, not of its load

        from yearling.serving.executors.transformers import TransformersExecutor

    options = model.options
    _refuse_options(options, "the transformers executor", kv_type="auto", cache_bytes=None)
    weights: Any = options.weights
    return TransformersExecutor.load(
        checkpoint,
        weights=weights,
        context=model.context,
        max_sequences=options.max_sequences,
        max_step_tokens=options.max_step_tokens or _TORCH_STEP_TOKENS,
        threads=options.threads,
        device=options.device,
    )


def _refuse_options(options: ModelOptions, executor: str, **only: object) -> None:
    """Refuse options that an executor does not have, rather than ignore them."""
    for name, value in only.items():
        given = getattr(options, name)
        if given != value:
            raise ConfigError(
                f"{name}={given} means nothing to {executor}: leave it out, or choose "
                f"executor=torch."
            )


@contextmanager
def _needs_train_extra(executor: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise UnsupportedError(
            f"executor={executor} needs {error.name}, which is not installed: "
            f"pip install 'yearling[train]'.",
            parameter="executor",
        ) from error


def _context(asked: int | None, own: int, path: Path) -> int:
    if asked is not None and asked > own:
        raise ConfigError(
            f"context={asked} is more than the {own} tokens {path.name} was made for: "
            f"leave it out or set at most {own}."
        )
    return own if asked is None else asked
