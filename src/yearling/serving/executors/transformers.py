"""The executor on transformers: Hugging Face models that no family covers, one by one.

Slow beside the others, and complete: whatever class transformers has for a folder answers
through the same scheduler. Each sequence keeps what the class returns as its cache in a slot.
No code of a model's folder is ever run, and no pickle is ever read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from yearling.core.errors import ModelFormatError, UnsupportedError
from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint
from yearling.serving.executor import CacheShape, SequenceInput, SequenceOutput
from yearling.serving.executors.choosing import answer, check_tokens
from yearling.serving.executors.weights_version import weights_version

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["TransformersExecutor"]

_TYPES = {"float32": torch.float32, "float16": torch.float16}


class TransformersExecutor:
    """Implements `serving.executor.Executor` for one model of transformers.

    Attributes:
        cache_shapes: One group of slots.
        block_size: Tokens per block; slots have none.
        max_step_tokens: Tokens one step may hold.
        max_logit_rows: Rows of logits one step may ask for.
        kv_type: Type of what slots keep.
        weights_version: Changes whenever the weights do.
        needs_whole_prompt: Of an encoder-decoder, whose encoder reads a prompt as a whole.
        can_share_prefixes: False: what one slot keeps cannot be taken over by another.
        takes_guesses: False: nothing is taken out of a slot again.
        weight_bytes: Size of all parameters.
        context: Most tokens of a sequence.
        threads: Threads that compute on a CPU.
    """

    block_size = 16
    can_share_prefixes = False
    takes_guesses = False

    def __init__(
        self,
        model: "PreTrainedModel",
        *,
        max_sequences: int,
        context: int,
        vocabulary: int,
        max_step_tokens: int,
        weights_version: str,
    ) -> None:
        self.cache_shapes: tuple[CacheShape, ...] = (CacheShape("state", max_sequences),)
        self.max_step_tokens = max_step_tokens
        self.max_logit_rows = max(max_sequences, 64)
        self.kv_type = "float16" if model.dtype == torch.float16 else "float32"
        self.weights_version = weights_version
        self.weight_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
        self.context = context
        self.threads = torch.get_num_threads()
        self._vocabulary = vocabulary
        is_encoding = bool(model.config.is_encoder_decoder)
        self.needs_whole_prompt = is_encoding
        if is_encoding:  # nothing is allocated for a step's tokens
            self.max_step_tokens = max(max_step_tokens, context)
        self._reader: _Reader = _EncoderDecoder(model) if is_encoding else _Decoder(model)
        self._slots: dict[int, _Slot] = {}

    @classmethod
    def load(
        cls,
        checkpoint: FallbackCheckpoint,
        *,
        weights: Literal["auto", "float32", "float16"] = "auto",
        context: int | None = None,
        max_sequences: int = 128,
        max_step_tokens: int = 512,
        threads: int | None = None,
        device: str = "cpu",
    ) -> "TransformersExecutor":
        """Load a folder's model with transformers' own class.

        Args:
            checkpoint: The opened folder.
            weights: Type of all parameters; `auto` is float32 on a CPU, and float16 elsewhere.
            context: Most tokens of a sequence; None takes the model's own.
            max_sequences: Sequences whose state is kept at once.
            max_step_tokens: Tokens one step may hold.
            threads: Threads that compute in this process; None leaves them as they are.
            device: Where to compute, as torch names it.

        Raises:
            UnsupportedError: parameters of such a type are not computed on.
            ModelFormatError: transformers has no class for the folder, or cannot read it.
        """
        if weights not in ("auto", *_TYPES):
            raise UnsupportedError(
                f"the transformers executor does not compute on {weights} weights; float32 and "
                "float16 are what it has."
            )
        if threads is not None:
            torch.set_num_threads(threads)
        own = "float32" if torch.device(device).type == "cpu" else "float16"
        weight_type = own if weights == "auto" else weights
        model = _load_model(checkpoint)
        torch.nn.Module.to(model, torch.device(device), _TYPES[weight_type])
        return cls(
            model.train(False),
            max_sequences=max_sequences,
            context=context or checkpoint.context,
            vocabulary=checkpoint.vocabulary,
            max_step_tokens=max_step_tokens,
            weights_version=weights_version(checkpoint.path, f"transformers {weight_type}"),
        )

    @torch.inference_mode()
    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        """Run one step; see `serving.executor.Executor`."""
        return [self._advance(sequence) for sequence in step]

    @torch.inference_mode()
    def logits(self, tokens: Sequence[int], num_prompt: int | None = None) -> NDArray[np.float32]:
        """Logits after each token of one sequence alone: (T, V).

        Of an encoder-decoder there are rows only from the prompt's last token on.

        Args:
            tokens: The sequence.
            num_prompt: Leading tokens that are its prompt; None takes all of them.

        Raises:
            RequestError: no tokens, too many for the context, or ids outside the vocabulary.
        """
        check_tokens(tokens, context=self.context, vocabulary=self._vocabulary)
        num_prompt = len(tokens) if num_prompt is None else num_prompt
        return _numpy(self._reader.read(_Slot(), tokens, num_prompt))

    def close(self) -> None:
        """Free weights and slots; the executor cannot be used afterwards."""
        del self._reader, self._slots

    def _advance(self, sequence: SequenceInput) -> SequenceOutput:
        if sequence.score_targets and not self._reader.gives_prompt_logits:
            return SequenceOutput(error="an encoder-decoder gives no log-probabilities of prompts.")
        number = sequence.groups[0].blocks[0]
        if sequence.start == 0:
            self._slots[number] = _Slot()
        slot = self._slots[number]
        assert len(slot.tokens) == sequence.start, "a slot follows its sequence token by token"
        logits = _numpy(self._reader.read(slot, sequence.tokens, sequence.num_prompt))
        if not sequence.score_targets:
            logits = logits[-1:]
        if sequence.sample is None and not sequence.score_targets:
            return SequenceOutput()
        return answer(sequence, logits)


@dataclass(eq=False)
class _Slot:
    """What a sequence has left: its tokens, and what the model's class returned to go on from."""

    tokens: list[int] = field(default_factory=list)
    cache: Any = None
    encoded: Any = None


class _Reader(Protocol):
    """Brings a slot forward."""

    gives_prompt_logits: bool

    def read(self, slot: _Slot, tokens: Sequence[int], num_prompt: int) -> torch.Tensor:
        """Read a sequence's next tokens; gives logits (rows, V), the last after the last token."""
        ...


class _Decoder:
    """A model that only continues."""

    gives_prompt_logits = True

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model = model

    def read(self, slot: _Slot, tokens: Sequence[int], num_prompt: int) -> torch.Tensor:
        slot.tokens.extend(tokens)
        # Classes that return no cache see the whole sequence again.
        ids = slot.tokens if slot.cache is None else list(tokens)
        row = torch.tensor([ids], device=self._model.device)
        result = self._model(input_ids=row, past_key_values=slot.cache, use_cache=True)
        slot.cache = getattr(result, "past_key_values", None)
        logits = result.logits[0, -len(tokens) :]
        assert isinstance(logits, torch.Tensor)
        return logits


class _EncoderDecoder:
    """A model whose encoder reads the prompt; the answer starts behind a token of its own."""

    gives_prompt_logits = False

    def __init__(self, model: "PreTrainedModel") -> None:
        self._model = model
        start = model.generation_config.decoder_start_token_id
        start = model.config.decoder_start_token_id if start is None else start
        if start is None:
            raise ModelFormatError("an encoder-decoder whose config has no decoder_start_token_id.")
        self._start = int(start)

    def read(self, slot: _Slot, tokens: Sequence[int], num_prompt: int) -> torch.Tensor:
        device = self._model.device
        ids = list(tokens)
        if not slot.tokens:
            prompt = torch.tensor([ids[:num_prompt]], device=device)
            slot.encoded = self._model.get_encoder()(input_ids=prompt)
            ids = [self._start, *ids[num_prompt:]]
        slot.tokens.extend(tokens)
        result = self._model(
            encoder_outputs=slot.encoded,
            decoder_input_ids=torch.tensor([ids], device=device),
            past_key_values=slot.cache,
            use_cache=True,
        )
        slot.cache = result.past_key_values
        logits = result.logits[0]
        assert isinstance(logits, torch.Tensor)
        return logits


def _load_model(checkpoint: FallbackCheckpoint) -> "PreTrainedModel":
    import transformers

    kind: Any = transformers.AutoModelForCausalLM
    if checkpoint.is_encoder_decoder:
        kind = transformers.AutoModelForSeq2SeqLM
    try:
        model: PreTrainedModel = kind.from_pretrained(
            checkpoint.path, local_files_only=True, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ModelFormatError(
            f"{checkpoint.path}: neither a family nor transformers reads a model of type "
            f"{checkpoint.model_type!r}: {error}"
        ) from error
    return model


def _numpy(logits: torch.Tensor) -> NDArray[np.float32]:
    result: NDArray[np.float32] = logits.float().cpu().numpy()
    return result
