"""Examples to token ids with loss masks, through the chat template and tokenizer that serve.

What is learned of an answer is what the model will have to generate: the ids before it are those
that serving would send, the first id with loss is the first that serving would ask for, and the
last is the one at which serving would stop. A template that makes this impossible, because it
writes a turn differently once the conversation goes on, is found by comparing its prompts, and
the row is refused by name rather than trained wrongly.
"""

from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from yearling.core.errors import DataError, RequestError
from yearling.core.messages import Message
from yearling.data.conversation_encoder import encode_conversation
from yearling.data.encoded import EncodedRow, EncodedSequence
from yearling.data.examples import (
    Continuation,
    Conversation,
    Document,
    Example,
    Preference,
    Turn,
)
from yearling.data.row_error import NO_STOP, NOTHING_TO_LEARN, RowError
from yearling.data.rows import RowId
from yearling.data.sequences import encode_going_on, masked_sequence
from yearling.data.stops import Stops

if TYPE_CHECKING:
    from yearling.models.chat_format import ChatFormat
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["Renderer"]


class Renderer:
    """Makes examples into token ids; the same object for training, evaluation and display.

    Attributes:
        tokenizer: As the model is served with it.
        chat_template: None for a model without one, which conversations then cannot train.
        stops: What ends an answer.
        context: Tokens the model was made for; None when that is not known.
        name: The model, for messages.
    """

    def __init__(
        self,
        tokenizer: "Tokenizer",
        chat_template: "ChatTemplate | None",
        stop_ids: Iterable[int],
        *,
        stop_texts: Sequence[str] = (),
        context: int | None = None,
        name: str = "this model",
    ) -> None:
        """Take the parts of a model; `open` finds them.

        Args:
            tokenizer: Encodes text.
            chat_template: Renders conversations.
            stop_ids: Tokens that end an answer.
            stop_texts: Ordinary texts that end an answer in a chat.
            context: Tokens the model was made for.
            name: What messages call the model.
        """
        self.tokenizer = tokenizer
        self.chat_template = chat_template
        self.stops = Stops(tokenizer, frozenset(stop_ids), tuple(stop_texts))
        self.context = context
        self.name = name
        self._plain_stops = Stops(tokenizer, frozenset(stop_ids))

    @classmethod
    def open(cls, model: str | Path, *, chat_template: str | None = None) -> "Renderer":
        """Take tokenizer, template and stops from a model as it would be served.

        Args:
            model: Name in the store, GGUF file or Hugging Face folder.
            chat_template: Name of a template or path of a .jinja file; None takes the model's.

        Raises:
            ModelNotFoundError: nothing of that name is there.
            ModelFormatError: its files are malformed.
            ConfigError: there is no such template.
            DataError: the model came without a tokenizer.
        """
        from yearling.models.chat_format import chat_format
        from yearling.models.checkpoint import open_checkpoint
        from yearling.models.checkpoint.fallback_checkpoint import (
            FallbackCheckpoint,
            needs_fallback,
        )
        from yearling.models.store import resolve

        path = resolve(str(model))
        checkpoint = FallbackCheckpoint(path) if needs_fallback(path) else open_checkpoint(path)
        with closing(checkpoint):
            chat = chat_format(checkpoint, chat_template)
            if isinstance(checkpoint, FallbackCheckpoint):
                context = checkpoint.context
            else:
                context = checkpoint.spec.context
            return cls.from_format(chat, context=context, name=str(model))

    @classmethod
    def from_format(
        cls, chat: "ChatFormat", *, context: int | None = None, name: str = "this model"
    ) -> "Renderer":
        """Take what `models.chat_format` found in a checkpoint.

        Raises:
            DataError: the model came without a tokenizer.
        """
        if chat.tokenizer is None:
            raise DataError(f"{name} came without a tokenizer, so text cannot train it.")
        return cls(
            chat.tokenizer,
            chat.template,
            chat.end_token_ids,
            stop_texts=chat.stop_texts,
            context=context,
            name=name,
        )

    @cached_property
    def template_hash(self) -> str:
        """SHA-256 of template and tokenizer: equal hashes turn equal examples into equal ids."""
        if self.chat_template is not None:
            return self.chat_template.template_hash
        return sha256(("\0" + self.tokenizer.content_hash).encode()).hexdigest()

    def encode(self, row_id: RowId, example: Example) -> EncodedRow:
        """Encode an example of any kind.

        Raises:
            RowError: the row cannot be trained on; the message begins with `file:line`.
            DataError: the model has no chat template.
        """
        try:
            return EncodedRow(row_id, self._sequences(example))
        except RowError as error:
            raise error.at(row_id) from None

    def conversation(self, conversation: Conversation) -> EncodedSequence:
        """Encode a conversation; answers carry loss, with the stop that ends each.

        Raises:
            RowError: nothing has loss, an answer has no stop, or the template writes a
                conversation differently when it is longer.
            DataError: the model has no chat template.
        """
        return encode_conversation(self._template(), self.stops, conversation)

    def answers(self, conversation: Conversation) -> tuple[EncodedSequence, ...]:
        """Encode each answer after its own prompt, as if the conversation ended with it.

        For templates that rewrite what came before, such as those that leave thoughts out of
        past turns: one sequence per answer is what serving asks of the model.

        Raises:
            RowError: as `conversation` does, for templates that cannot be trained even so.
            DataError: the model has no chat template.
        """
        learned = [index for index, turn in enumerate(conversation.turns) if turn.has_loss]
        if not learned:
            raise _nothing_to_learn("no turn of the conversation has loss")
        sequences = []
        for index in learned:
            earlier = tuple(Turn(turn.message, False) for turn in conversation.turns[:index])
            alone = Conversation((*earlier, conversation.turns[index]), conversation.tools)
            sequences.append(self.conversation(alone))
        return tuple(sequences)

    def preference(self, preference: Preference) -> tuple[EncodedSequence, EncodedSequence]:
        """Encode the better and the worse answer, each after the prompt.

        Raises:
            RowError: as `conversation` does.
            DataError: the model has no chat template.
        """
        prompt = tuple(Turn(message, False) for message in preference.prompt)
        chosen, rejected = (
            self.conversation(
                Conversation((*prompt, *map(_answer_turn, messages)), preference.tools)
            )
            for messages in (preference.chosen, preference.rejected)
        )
        return chosen, rejected

    def continuation(self, continuation: Continuation) -> EncodedSequence:
        """Encode a prompt and its completion without a template; the end token is learned too.

        Raises:
            RowError: the completion is empty, or the tokenizer has no end token.
        """
        prompt, completion = continuation.prompt, continuation.completion
        if not completion:
            raise _nothing_to_learn("the completion is empty")
        end_id = self._plain_stops.final_id
        if end_id is None:
            raise RowError(NO_STOP, f"the tokenizer of {self.name} has no end token.")
        add_bos = self.tokenizer.adds_bos
        before = _encoded(self.tokenizer, prompt, add_bos)
        whole = _encoded(self.tokenizer, prompt + completion, add_bos)
        if whole[: len(before)] != before:
            whole = before + encode_going_on(self.tokenizer, [completion])
        ids = [*whole, end_id]
        return masked_sequence(ids, [(len(before), len(ids))], num_prompt=len(before))

    def document(self, document: Document) -> EncodedSequence:
        """Encode a text between the special tokens the model was trained to see around one.

        Raises:
            RowError: the text is empty.
        """
        ids = self.tokenizer.wrap(self.text_ids(document.text))
        end_id = self._plain_stops.final_id
        if end_id is not None and ids[-1:] != [end_id]:
            ids.append(end_id)
        if not document.text:
            raise _nothing_to_learn("the text is empty")
        return masked_sequence(ids, [(0, len(ids))])

    def text_ids(self, text: str) -> list[int]:
        """Encode bare text: no special token comes around it or out of it.

        Raises:
            RowError: the text holds a lone surrogate.
        """
        return _encoded(self.tokenizer, text, False)

    def _sequences(self, example: Example) -> tuple[EncodedSequence, ...]:
        match example:
            case Conversation():
                return (self.conversation(example),)
            case Continuation():
                return (self.continuation(example),)
            case Document():
                return (self.document(example),)
            case Preference():
                return self.preference(example)

    def _template(self) -> "ChatTemplate":
        if self.chat_template is None:
            raise DataError(
                f"{self.name} has no chat template, so conversations cannot train it: name one "
                "that serving will use too (chat_template: chatml, or the path of a .jinja file), "
                "or give rows of prompt and completion."
            )
        return self.chat_template


def _answer_turn(message: Message) -> Turn:
    return Turn(message, message.role == "assistant")


def _nothing_to_learn(detail: str) -> RowError:
    return RowError(NOTHING_TO_LEARN, f"{detail}.")


def _encoded(tokenizer: "Tokenizer", text: str, add_bos: bool) -> list[int]:
    try:
        return tokenizer.encode(text, add_bos=add_bos)
    except RequestError as error:
        raise RowError("text that cannot be encoded", str(error)) from error
