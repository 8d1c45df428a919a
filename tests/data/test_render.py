"""Rendering: the ids that serving sends, loss on the answers and their stops, nothing forged."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import byte_tokenizer
from yearling.core.errors import DataError
from yearling.core.messages import Message, parse_messages
from yearling.data.encoded import EncodedSequence
from yearling.data.examples import (
    Continuation,
    Conversation,
    Document,
    Preference,
    Turn,
)
from yearling.data.render import Renderer
from yearling.data.row_error import RowError
from yearling.data.rows import RowId
from yearling.models.chat_format import chat_format
from yearling.models.chat_template import ChatTemplate
from yearling.models.chat_templates import named_template, template_names
from yearling.models.checkpoint import open_checkpoint
from yearling.models.tokenizer import Tokenizer
from yearling.serving.model import load_model

_ROW = RowId("rows.jsonl", 7)
_QUESTION = {"role": "user", "content": "Hi"}
_SILENCE = {"role": "assistant", "content": ""}
_PLAIN: dict[str, list[dict[str, Any]]] = {
    "one answer": [_QUESTION, {"role": "assistant", "content": "Hello there."}],
    "a system message": [
        {"role": "system", "content": "Be brief."},
        _QUESTION,
        {"role": "assistant", "content": "Yes."},
    ],
    "three answers": [
        _QUESTION,
        {"role": "assistant", "content": "One, 二"},
        {"role": "user", "content": "And?"},
        {"role": "assistant", "content": "Two 🙂"},
        {"role": "user", "content": "  spaces  "},
        {"role": "assistant", "content": "def f():\n    return 1\n\n"},
    ],
    "an open end": [
        _QUESTION,
        {"role": "assistant", "content": "One"},
        {"role": "user", "content": "Two"},
    ],
}


def _conversation(
    *messages: dict[str, Any] | Message, learned: Sequence[int] | None = None
) -> Conversation:
    parsed = parse_messages(messages)
    return Conversation(
        tuple(
            Turn(message, message.role == "assistant" if learned is None else index in learned)
            for index, message in enumerate(parsed)
        )
    )


def _learned(sequence: EncodedSequence, tokenizer: Tokenizer) -> list[str]:
    """The text of each run of tokens with loss."""
    runs: list[list[int]] = []
    was_learned = False
    for token, has_loss in zip(sequence.tokens.tolist(), sequence.has_loss, strict=True):
        if has_loss:
            runs += [] if was_learned else [[]]
            runs[-1].append(token)
        was_learned = bool(has_loss)
    return [tokenizer.decode(run, skip_special=False) for run in runs]


@pytest.fixture(scope="module")
def renderer(smollm2_path: Path) -> Renderer:
    return Renderer.open(smollm2_path)


@pytest.fixture(scope="module")
def oracle(renderer: Renderer, tmp_path_factory: Any) -> Any:
    """SmolLM2's tokenizer and template in transformers."""
    from transformers import PreTrainedTokenizerFast

    file = tmp_path_factory.mktemp("oracle") / "tokenizer.json"
    renderer.tokenizer._parsing.save(str(file))
    assert renderer.chat_template is not None
    return PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        chat_template=renderer.chat_template.source,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
    )


@pytest.mark.parametrize("name", _PLAIN)
def test_conversation_gives_the_ids_of_transformers(
    name: str, renderer: Renderer, oracle: Any
) -> None:
    sequence = renderer.conversation(_conversation(*_PLAIN[name]))
    assert sequence.tokens.tolist() == oracle.apply_chat_template(_PLAIN[name], return_dict=False)


@pytest.mark.parametrize("name", _PLAIN)
def test_mask_covers_each_answer_and_its_stop(name: str, renderer: Renderer) -> None:
    sequence = renderer.conversation(_conversation(*_PLAIN[name]))
    answers = [m["content"] for m in _PLAIN[name] if m["role"] == "assistant"]
    assert _learned(sequence, renderer.tokenizer) == [f"{text}<|im_end|>" for text in answers]


@pytest.mark.parametrize("name", _PLAIN)
def test_each_answer_follows_the_prompt_that_serving_sends(name: str, renderer: Renderer) -> None:
    messages = parse_messages(_PLAIN[name])
    sequence = renderer.conversation(_conversation(*messages))
    assert renderer.chat_template is not None
    starts = [
        i
        for i in range(1, len(sequence.tokens))
        if sequence.has_loss[i - 1 : i + 1].tolist() == [False, True]
    ]
    asked = [index for index, message in enumerate(messages) if message.role == "assistant"]
    for start, index in zip(starts, asked, strict=True):
        assert sequence.tokens[:start].tolist() == renderer.chat_template.encode(messages[:index])
    assert sequence.num_prompt == starts[0]


def test_turns_without_loss_are_read_only(renderer: Renderer) -> None:
    sequence = renderer.conversation(_conversation(*_PLAIN["three answers"], learned=[3]))
    assert _learned(sequence, renderer.tokenizer) == ["Two 🙂<|im_end|>"]
    assert sequence.num_prompt == int(sequence.has_loss.argmax())


def test_answer_that_begins_inside_a_token_is_encoded_as_generated(renderer: Renderer) -> None:
    """Read at once, the header's line end and the answer's would be one token."""
    messages = parse_messages([_QUESTION, {"role": "assistant", "content": "\n\nHello"}])
    sequence = renderer.conversation(_conversation(*messages))
    assert renderer.chat_template is not None
    whole = renderer.chat_template.encode(messages, add_generation_prompt=False)
    assert sequence.tokens.tolist() != whole
    prompt = renderer.chat_template.encode(messages[:1])
    assert sequence.tokens[: len(prompt)].tolist() == prompt
    assert _learned(sequence, renderer.tokenizer) == ["\n\nHello<|im_end|>"]
    rest = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "Hi"}]
    with pytest.raises(RowError, match=r"messages\[1\] begins inside a token"):
        renderer.conversation(_conversation(*messages, *rest))


def test_text_of_special_tokens_never_becomes_one(renderer: Renderer) -> None:
    generator = random.Random(0)
    tokenizer = renderer.tokenizer
    pieces = [
        *tokenizer.special_tokens,
        "<|im_",
        "end|>",
        "\n",
        " ",
        "word",
        "é",
        "<|",
        "assistant",
    ]
    special = set(tokenizer.special_tokens.values())
    plain = _conversation(*[{"role": r, "content": "a"} for r in ("user", "assistant") * 2])
    expected = [t for t in renderer.conversation(plain).tokens.tolist() if t in special]
    num_encoded = 0
    for _ in range(500):
        texts = ["".join(generator.choices(pieces, k=generator.randint(1, 6))) for _ in range(4)]
        roles = ("user", "assistant") * 2
        messages = [{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)]
        if texts[1][0].isspace():  # a token may span the start of the answer
            continue
        sequence = renderer.conversation(_conversation(*messages))
        num_encoded += 1
        assert [t for t in sequence.tokens.tolist() if t in special] == expected
        assert _learned(sequence, tokenizer) == [f"{text}<|im_end|>" for text in texts[1::2]]
    assert num_encoded > 300


def test_encoded_row_names_its_place_in_errors(renderer: Renderer) -> None:
    with pytest.raises(RowError, match=r"^rows\.jsonl:7: nothing to learn: no turn") as caught:
        renderer.encode(_ROW, _conversation(*_PLAIN["one answer"], learned=[]))
    assert (caught.value.reason, caught.value.row_id) == ("nothing to learn", _ROW)
    assert isinstance(caught.value, DataError)


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (
            _conversation(_QUESTION, {"role": "assistant", "content": ""}),
            r"messages\[1\] is an empty",
        ),
        (_conversation(_QUESTION, learned=[0]), r"messages\[0\] is of role 'user'"),
        (Continuation("a", ""), "the completion is empty"),
        (Document(""), "the text is empty"),
        (Document("\ud800"), r"lone surrogate U\+D800"),
    ],
)
def test_row_that_teaches_nothing_is_an_error(
    example: Any, message: str, renderer: Renderer
) -> None:
    with pytest.raises(RowError, match=message):
        renderer.encode(_ROW, example)


def test_preference_has_both_answers_after_one_prompt(renderer: Renderer) -> None:
    prompt, better, worse = (
        parse_messages([{"role": role, "content": text}])
        for role, text in (("user", "Q"), ("assistant", "good one"), ("assistant", "bad"))
    )
    row = renderer.encode(_ROW, Preference(prompt, better, worse))
    chosen, rejected = row.sequences
    assert (
        chosen.tokens[: chosen.num_prompt].tolist()
        == rejected.tokens[: rejected.num_prompt].tolist()
    )
    assert _learned(chosen, renderer.tokenizer) == ["good one<|im_end|>"]
    assert _learned(rejected, renderer.tokenizer) == ["bad<|im_end|>"]


def test_continuation_learns_the_completion_and_its_end(renderer: Renderer) -> None:
    sequence = renderer.continuation(Continuation("2 + 2 =", " 4"))
    assert sequence.tokens[: sequence.num_prompt].tolist() == renderer.tokenizer.encode("2 + 2 =")
    assert _learned(sequence, renderer.tokenizer) == [" 4<|im_end|>"]


def test_completion_that_joins_the_prompt_is_encoded_apart(renderer: Renderer) -> None:
    sequence = renderer.continuation(Continuation("under", "stand"))
    tokenizer = renderer.tokenizer
    apart = [*tokenizer.encode("under"), *tokenizer.encode("stand"), tokenizer.eos_id]
    assert sequence.tokens.tolist() == apart
    assert tokenizer.encode("understand") != apart[:-1]


def test_document_is_learned_but_for_its_first_token(renderer: Renderer) -> None:
    sequence = renderer.document(Document("Once upon <|im_end|> a time"))
    tokenizer = renderer.tokenizer
    ids = renderer.text_ids("Once upon <|im_end|> a time")
    assert sequence.tokens.tolist() == [*ids, tokenizer.eos_id]
    assert sequence.has_loss.tolist() == [False] + [True] * len(ids)
    assert tokenizer.eos_id not in ids


def test_model_without_template_says_how_to_name_one(renderer: Renderer) -> None:
    bare = Renderer(renderer.tokenizer, None, [2], name="base.gguf")
    with pytest.raises(DataError, match=r"base\.gguf has no chat template.*chat_template: chatml"):
        bare.encode(_ROW, _conversation(*_PLAIN["one answer"]))
    assert bare.continuation(Continuation("a", "b")).num_labels == 2
    assert bare.template_hash != renderer.template_hash


def test_renderer_and_server_share_template_and_stops(smollm2_path: Path) -> None:
    renderer, served = Renderer.open(smollm2_path), load_model(smollm2_path)
    assert served.chat_template is not None
    assert renderer.template_hash == served.chat_template.template_hash
    assert renderer.stops.ids == set(served.eos_token_ids)
    assert renderer.context == served.context
    named = Renderer.open(smollm2_path, chat_template="alpaca")
    assert named.stops.texts == ("### Instruction:",)
    assert named.template_hash != renderer.template_hash


_SPECIAL = (
    *("<s>", "</s>", "<unk>", "<|im_start|>", "<|im_end|>", "[gMASK]", "<sop>", "<eop>", "sop"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<eoh>", "<eoa>", "<eot>"),
    *("<eoc>", "<eor>", "<eom>", "### Instruction:", "### Response:", "### End", "<|SYSTEM|>"),
    *("<|USER|>", "<|ASSISTANT|>", "<_user>", "<_bot>", "<_end>", "<|end_of_turn|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<reserved_102>", "<reserved_103>", "<reserved_106>", "<reserved_107>"),
)
_TEXT_STOPS = {"### Instruction:", "### Response:", "### End"}

# Formats in which what is served and what a longer conversation holds differ, and how.
_TWO_ANSWERS_REFUSED = {
    "chatglm": "template rewrites the conversation",
    "chatglm2": "template rewrites the conversation",
    "chatyuan": "stop token without loss",
    "internlm": "template rewrites the conversation",
    "moss-plugin": "an answer goes on after its stop",
}
_ONE_ANSWER_REFUSED = {"moss-plugin": "an answer goes on after its stop"}


@pytest.fixture(scope="module", params=["stops are tokens", "stops are texts"])
def tokens(request: Any, tmp_path_factory: Any) -> Tokenizer:
    has_texts = request.param == "stops are texts"
    special = [text for text in _SPECIAL if not (has_texts and text in _TEXT_STOPS)]
    return byte_tokenizer(tmp_path_factory.mktemp("tokens"), special)


def _named(name: str, tokens: Tokenizer) -> Renderer:
    template = named_template(name)
    if not set(template.tokens) <= set(tokens.special_tokens):
        pytest.skip("its stops are tokens wherever it is used")
    own = template.tokenizer(tokens)
    assert own.eos_id is not None
    return Renderer(
        own,
        template.chat_template(own),
        [own.eos_id, *template.stop_token_ids(own)],
        stop_texts=template.stop_texts(own),
    )


@pytest.mark.parametrize("name", template_names())
def test_named_template_trains_what_it_serves(name: str, tokens: Tokenizer) -> None:
    renderer = _named(name, tokens)
    rounds = [("user", "Q"), ("assistant", "A b"), ("user", "Q2"), ("assistant", "C d")]
    messages = [{"role": role, "content": text} for role, text in rounds]
    for count, refused in ((2, _ONE_ANSWER_REFUSED), (4, _TWO_ANSWERS_REFUSED)):
        conversation = _conversation(*messages[:count])
        if name in refused:
            with pytest.raises(RowError) as caught:
                renderer.conversation(conversation)
            assert caught.value.reason == refused[name]
            continue
        sequence = renderer.conversation(conversation)
        assert renderer.chat_template is not None
        parsed = parse_messages(messages)
        for index, run in zip((1, 3), _learned(sequence, renderer.tokenizer), strict=False):
            prompt = renderer.chat_template.encode(parsed[:index])
            assert sequence.tokens[: len(prompt)].tolist() == prompt
            assert sequence.has_loss[len(prompt)]
            assert not sequence.has_loss[len(prompt) - 1]
            answer = messages[index]["content"]
            ends = [renderer.tokenizer.decode([i], skip_special=False) for i in renderer.stops.ids]
            assert run.strip().startswith(answer)
            assert run.endswith((*ends, *renderer.stops.texts))
            assert len(run) < len(answer) + 30


@pytest.mark.parametrize("name", ["chatglm", "chatglm2", "chatyuan"])
def test_format_that_rewrites_history_trains_answer_by_answer(name: str, tokens: Tokenizer) -> None:
    renderer = _named(name, tokens)
    rounds = [("user", "Q"), ("assistant", "A"), ("user", "Q2"), ("assistant", "B")]
    parsed = parse_messages([{"role": role, "content": text} for role, text in rounds])
    sequences = renderer.answers(_conversation(*parsed))
    assert renderer.chat_template is not None
    for index, answer, sequence in zip((1, 3), "AB", sequences, strict=True):
        prompt = renderer.chat_template.encode(parsed[:index])
        assert sequence.tokens[: sequence.num_prompt].tolist() == prompt
        (run,) = _learned(sequence, renderer.tokenizer)
        assert run.startswith(answer)


_THINKING = """
{%- for m in messages %}
{{- "<|im_start|>" ~ m.role ~ "\n" }}
{{- m.content if loop.last or m.role != "assistant" else m.content.split("</think>")[-1] }}
{{- "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\n" }}{%- endif %}"""
_END_AT_LAST = """
{%- for m in messages %}{{- "<|im_start|>" ~ m.role ~ "\n" ~ m.content ~ "<|im_end|>\n" }}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|im_start|>assistant\n" }}{%- else %}{{- "</s>" }}
{%- endif %}"""
_PREFILLED = _END_AT_LAST.replace('assistant\n" }}{%- else', 'assistant\n<think>\n" }}{%- else')


def _written(source: str, tokens: Tokenizer) -> Renderer:
    end = tokens.special_tokens["<|im_end|>"]
    return Renderer(tokens, ChatTemplate(source, tokens), [end])


def test_template_that_drops_thoughts_of_past_turns_is_found(tokens: Tokenizer) -> None:
    renderer = _written(_THINKING, tokens)
    thought = {"role": "assistant", "content": "<think>x</think>yes"}
    with pytest.raises(RowError, match=r"messages\[1\] is written differently once"):
        renderer.conversation(_conversation(_QUESTION, thought, _QUESTION, thought))
    first, second = renderer.answers(_conversation(_QUESTION, thought, _QUESTION, thought))
    assert (
        _learned(first, tokens) == _learned(second, tokens) == [f"{thought['content']}<|im_end|>"]
    )


def test_prompt_that_starts_the_answer_otherwise_is_found(tokens: Tokenizer) -> None:
    with pytest.raises(RowError, match=r"asks for messages\[1\] does not begin the text"):
        _written(_PREFILLED, tokens).conversation(_conversation(*_PLAIN["one answer"]))


def test_token_after_the_last_stop_is_not_learned(tokens: Tokenizer) -> None:
    sequence = _written(_END_AT_LAST, tokens).conversation(_conversation(*_PLAIN["three answers"]))
    assert sequence.tokens[-1] == tokens.special_tokens["</s>"]
    assert all(run.endswith("<|im_end|>") for run in _learned(sequence, tokens))
    assert len(_learned(sequence, tokens)) == 3


def test_answer_without_any_stop_is_an_error(tokens: Tokenizer) -> None:
    endless = Renderer(tokens, ChatTemplate("{{ messages | length }}", tokens), [])
    with pytest.raises(RowError, match="stop token without loss"):
        endless.continuation(Continuation("a", "b"))
    bare = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
    with pytest.raises(RowError, match="stop token without loss"):
        Renderer(tokens, ChatTemplate(bare, tokens), []).conversation(
            _conversation(*_PLAIN["one answer"])
        )


def test_tools_and_their_calls_are_rendered(tokens: Tokenizer) -> None:
    renderer = _named("chatglm3", tokens)
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = parse_messages(
        [
            _QUESTION,
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "22"},
            {"role": "assistant", "content": "It is 22."},
        ]
    )
    turns = tuple(Turn(message, message.role == "assistant") for message in messages)
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    sequence = renderer.conversation(Conversation(turns, (tool,)))
    called, answered = _learned(sequence, renderer.tokenizer)
    assert called == "f\n ```python\ntool_call()\n```<|observation|>"
    assert answered == "\n It is 22.</s>"


def test_template_that_refuses_a_conversation_gives_its_words(tokens: Tokenizer) -> None:
    with pytest.raises(RowError, match=r"template refuses the conversation: .*take turns"):
        _named("vicuna", tokens).conversation(
            _conversation(_QUESTION, _QUESTION, {"role": "assistant", "content": "A"})
        )


def test_gemma_template_of_a_real_file_trains_two_answers(gemma3_path: Path) -> None:
    checkpoint = open_checkpoint(gemma3_path)
    renderer = Renderer.from_format(chat_format(checkpoint, "gemma"))
    sequence = renderer.conversation(_conversation(*_PLAIN["three answers"][:4]))
    assert _learned(sequence, renderer.tokenizer) == ["One, 二<end_of_turn>", "Two 🙂<end_of_turn>"]
