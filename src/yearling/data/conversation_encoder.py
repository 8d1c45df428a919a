"""One conversation on its way to ids: the prompts that serving would send, compared.

An answer follows the prompt that asks for it. `prompt` below is what serving sends, `alone` the
conversation that ends with the answer, and `whole` all turns. A template may treat the last turn
in a way of its own; then what is trained is not what is served, and the row is refused.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from typing import Any

from yearling.core.errors import RequestError, TemplateError
from yearling.data.encoded import EncodedSequence
from yearling.data.examples import Conversation
from yearling.data.row_error import NO_STOP, NOTHING_TO_LEARN, REFUSED, REWRITTEN, RowError
from yearling.data.sequences import encode_going_on, masked_sequence
from yearling.data.stops import Stops
from yearling.models.chat_template import ChatTemplate, EncodedPrompt

__all__ = ["encode_conversation"]

Parts = Sequence[str | int]
Prompts = Callable[[int, bool], EncodedPrompt]


def encode_conversation(
    template: ChatTemplate, stops: Stops, conversation: Conversation
) -> EncodedSequence:
    """Encode all turns; answers that are learned carry loss, with the stop that ends each.

    Raises:
        RowError: nothing has loss, an answer has no stop, or the template writes a conversation
            differently when it is longer.
    """
    learned = _learned_turns(conversation)
    prompts = _prompts(template, conversation)
    whole = prompts(len(conversation.turns), False)
    last = prompts(learned[-1], True)
    ids = _going_on(stops, last, whole.ids, _rest(whole, last, learned[-1]))
    spans = []
    for index in learned:
        answer = _read_answer(prompts, whole, index)
        if tuple(ids[: len(answer.prompt.ids)]) != answer.prompt.ids:
            raise RowError(
                "a token spans the start of an answer",
                f"messages[{index}] begins inside a token that the prompts after it hold whole, "
                "so no one sequence trains both; trim white space at the start of the answer.",
            )
        if answer.is_last and not _is_closed(stops, answer):
            ids = _ended(stops, answer, conversation.turns[index].message.text)
            end = len(ids)
        else:
            end = len(answer.prompt.ids) + _num_tokens(stops, answer, ids)
        spans.append((len(answer.prompt.ids), end))
    return masked_sequence(ids, spans, num_prompt=spans[0][0])


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer as the template writes it.

    Attributes:
        index: Of its message.
        is_last: Whether the conversation ends with it.
        prompt: What serving sends to get it.
        alone: The conversation that ends with it.
        written: What follows the prompt in a conversation that ends here.
        following: What follows the prompt in the whole conversation.
    """

    index: int
    is_last: bool
    prompt: EncodedPrompt
    alone: EncodedPrompt
    written: Parts
    following: Parts


def _learned_turns(conversation: Conversation) -> list[int]:
    learned = [index for index, turn in enumerate(conversation.turns) if turn.has_loss]
    if not learned:
        raise RowError(NOTHING_TO_LEARN, "no turn of the conversation has loss.")
    for index in learned:
        message = conversation.turns[index].message
        if message.role != "assistant":
            raise RowError(
                "loss on a turn that is not the assistant's",
                f"messages[{index}] is of role {message.role!r}; only answers are learned.",
            )
        if not message.text and not message.tool_calls:
            raise RowError(NOTHING_TO_LEARN, f"messages[{index}] is an empty answer.")
    return learned


def _prompts(template: ChatTemplate, conversation: Conversation) -> Prompts:
    """Give the first turns, as a prompt to be answered or as they stand."""
    messages = [turn.message for turn in conversation.turns]
    tools: Sequence[Mapping[str, Any]] | None = conversation.tools or None

    @cache
    def prompt(count: int, is_answered: bool) -> EncodedPrompt:
        try:
            return template.encode_prompt(
                messages[:count], tools=tools, add_generation_prompt=is_answered
            )
        except (TemplateError, RequestError) as error:
            raise RowError(REFUSED, str(error)) from error

    return prompt


def _read_answer(prompts: Prompts, whole: EncodedPrompt, index: int) -> _Answer:
    prompt, alone = prompts(index, True), prompts(index + 1, False)
    is_last = alone.parts == whole.parts
    return _Answer(
        index, is_last, prompt, alone, _rest(alone, prompt, index), _rest(whole, prompt, index)
    )


def _rest(longer: EncodedPrompt, prompt: EncodedPrompt, index: int) -> Parts:
    rest = longer.parts_after(prompt)
    if rest is None:
        raise RowError(
            REWRITTEN,
            f"the prompt that asks for messages[{index}] does not begin the text that holds it, "
            "so what would be trained is not what is served.",
        )
    return rest


def _going_on(
    stops: Stops, prompt: EncodedPrompt, ids: Sequence[int], rest: Parts
) -> Sequence[int]:
    """Ids that begin with a prompt's: the given ones, unless a token spans the end of it."""
    if tuple(ids[: len(prompt.ids)]) == prompt.ids:
        return ids
    return [*prompt.ids, *encode_going_on(stops.tokenizer, rest)]


def _is_closed(stops: Stops, answer: _Answer) -> bool:
    """Whether the answer's own turn holds a stop, with nothing but space after it.

    Raises:
        RowError: the turn goes on after its stop, or is written differently in a longer
            conversation.
    """
    for position, part in enumerate(answer.written):
        end = stops.end_in_text(part) if isinstance(part, str) else None
        if isinstance(part, str) and end is not None:
            after = [part[end:], *answer.written[position + 1 :]]
            part = part[:end]
        elif part in stops.ids:
            after = [*answer.written[position + 1 :]]
        else:
            continue
        if any(isinstance(text, str) and text.strip() for text in after):
            raise RowError(
                "an answer goes on after its stop",
                f"messages[{answer.index}] holds a stop before its end, where serving would end "
                "it.",
            )
        _check_same(answer, [*answer.written[:position], part])
        return True
    return False


def _check_same(answer: _Answer, written: Parts) -> None:
    """Check that the whole conversation still holds an answer as it was first written."""
    for own, part in zip_longest(answer.following[: len(written)], written):
        is_start = isinstance(own, str) and isinstance(part, str) and own.startswith(part)
        if own != part and not (is_start and part is written[-1]):
            raise RowError(
                REWRITTEN,
                f"messages[{answer.index}] is written differently once the conversation goes on.",
            )


def _num_tokens(stops: Stops, answer: _Answer, ids: Sequence[int]) -> int:
    """Tokens of an answer and its stop, which may be the head of the turn after it."""
    start = len(answer.prompt.ids)
    stop = stops.first(ids[start:])
    if not _is_closed(stops, answer):
        _check_same(answer, answer.written)
        length = len(stops.text_of(answer.alone.ids)) - len(stops.text_of(answer.prompt.ids))
        if stop is not None and stops.text_of(ids[start:])[length : stop.num_bytes].strip():
            stop = None  # it ends a turn further on
    if stop is None:
        raise RowError(
            NO_STOP,
            f"the template writes nothing after messages[{answer.index}] at which serving would "
            "stop.",
        )
    return stop.num_tokens


def _ended(stops: Stops, answer: _Answer, text: str) -> list[int]:
    """End the last answer of a template that leaves its turn open."""
    if stops.final_id is None:
        raise RowError(NO_STOP, "the tokenizer has no token that ends an answer.")
    written = [*answer.written]
    if written and isinstance(written[-1], str) and text == text.rstrip():
        written[-1] = written[-1].rstrip()  # what parts turns is not part of the answer
    joint = stops.tokenizer.encode_parts([*answer.prompt.parts, *written])
    return [*_going_on(stops, answer.prompt, joint, written), stops.final_id]
