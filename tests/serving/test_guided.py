"""Guides: whatever a model would rather say, the answer is what was asked for, to its end."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from driving import drive, make_engine, make_request
from fake_executor import FakeExecutor
from fake_tokenizer import ByteTokenizer
from pydantic import ValidationError

from yearling.core.errors import RequestError, UnsupportedError
from yearling.models.tokenizer import Tokenizer
from yearling.serving.engine import Engine
from yearling.serving.guided import Guided, Guides
from yearling.serving.llm import LLM
from yearling.serving.messages import Add, FrameReader, decode_command, encode_frame
from yearling.serving.request import Guide, SamplingParams

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "is_here": {"type": "boolean"},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
END = ByteTokenizer.eos_id


@pytest.fixture(scope="module")
def guides() -> Guides:
    return Guides(ByteTokenizer(), ByteTokenizer.vocabulary_size, [END])


def ids(guided: Guided) -> list[int]:
    bits = np.unpackbits(np.frombuffer(guided.allowed, np.uint8), bitorder="little")
    return np.flatnonzero(bits).tolist()


def wander(guided: Guided, seed: int) -> str:
    """Any answer that the guide allows, byte by byte, ended as soon as it may be."""
    dice, found = random.Random(seed), bytearray()
    while not guided.is_finished:
        choices = ids(guided)
        token = END if END in choices else dice.choice(choices)
        guided.take(token)
        assert guided.problem is None
        if token == END:
            break
        found.append(token)
        assert len(found) < 10_000
    return found.decode()


def test_any_way_through_a_schema_is_an_instance_of_it(guides: Guides) -> None:
    shown = set()
    for seed in range(60):
        person = json.loads(wander(guides.begin(Guide(json_schema=PERSON)), seed))
        assert {"name", "age"} <= set(person) <= {"name", "age", "is_here"}
        assert isinstance(person["name"], str)
        assert len(person["name"]) <= 8
        assert type(person["age"]) is int
        assert 0 <= person["age"] <= 150
        assert type(person.get("is_here", True)) is bool
        shown.add(len(person))
    assert shown == {2, 3}


@pytest.mark.parametrize(
    ("guide", "pattern"),
    [
        (Guide(regex=r"[0-9]{4}-(0[1-9]|1[0-2])"), r"[0-9]{4}-(0[1-9]|1[0-2])"),
        (Guide(choice=('say "no"', "ja\n", "否")), 'say "no"|ja\n|否'),
        (Guide(grammar='start: "a" inner "a"\ninner: "b" | "c" inner'), r"ac*ba"),
        (Guide(json_schema={"enum": [1, "x", None]}), r'1|"x"|null'),
    ],
)
def test_every_kind_of_guide_is_kept(guides: Guides, guide: Guide, pattern: str) -> None:
    for seed in range(30):
        assert re.fullmatch(pattern, wander(guides.begin(guide), seed))


def test_json_has_no_room_for_endless_white_space(guides: Guides) -> None:
    guided = guides.begin(
        Guide(json_schema={"type": "array", "items": {"const": 1}, "minItems": 3})
    )
    assert wander(guided, 0) == "[1, 1, 1]"
    assert ord(" ") not in ids(guides.begin(Guide(json_schema={})))


@pytest.mark.parametrize(
    ("guide", "message"),
    [
        (Guide(json_schema={"type": "strange"}, field="response_format"), "strange"),
        (Guide(regex="(unclosed"), "unclosed"),
        (Guide(grammar="start: nowhere"), "nowhere"),
        (Guide(json_schema={"type": "string", "format": "unheard-of"}), "unheard-of"),
        (Guide(json_schema={"not": {"type": "object"}}), "not"),
    ],
)
def test_guides_that_cannot_be_kept_are_refused_by_name(
    guides: Guides, guide: Guide, message: str
) -> None:
    with pytest.raises(RequestError, match=f"{guide.field} is no guide") as caught:
        guides.begin(guide)
    assert message in str(caught.value)
    assert caught.value.parameter == guide.field


@pytest.mark.parametrize("fields", [{}, {"regex": "a", "choice": ("a",)}, {"choice": ()}])
def test_a_guide_says_one_thing(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Guide.model_validate(fields)


def test_a_model_that_never_ends_an_answer_cannot_be_guided() -> None:
    with pytest.raises(UnsupportedError, match="no token that ends an answer"):
        Guides(ByteTokenizer(), 258, []).begin(Guide(regex="a"))


def test_guided_and_free_answers_share_steps_and_keep_to_themselves() -> None:
    """The fake model says what it says; beside a guided answer a free one is what it was."""
    free = make_request([1, 2, 3], max_tokens=12)
    (alone,) = drive(make_engine(FakeExecutor()), free)
    guided = make_request([1, 2, 3], max_tokens=50, guide=Guide(regex="[a-f]{7}"))
    (beside, answer) = drive(make_engine(FakeExecutor()), free, guided)
    assert beside.tokens == alone.tokens
    assert re.fullmatch("[a-f]{7}", bytes(answer.tokens).decode())
    assert answer.final.finish_reason == "stop"


def test_a_guide_without_a_tokenizer_is_refused() -> None:
    executor = FakeExecutor()
    engine = Engine(executor, None, context=4096, eos_token_ids=(END,), vocabulary=258)
    with pytest.raises(RequestError, match="guide needs a tokenizer"):
        engine.add(make_request([1], guide=Guide(regex="a")))


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[LLM]:
    with LLM(smollm2_path, context=1024) as llm:
        yield llm


def test_a_real_model_answers_in_the_schema_and_what_it_knows_still_shows(smollm2: LLM) -> None:
    question = [{"role": "user", "content": "Which city is the capital of France?"}]
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    guide = Guide(json_schema={**schema, "additionalProperties": False})
    params = SamplingParams(temperature=0, max_tokens=60)
    answer = smollm2.chat(question, params.model_copy(update={"guide": guide}))
    assert "Paris" in json.loads(answer.text)["city"]
    assert answer.finish_reason == "stop"
    with pytest.raises(ValueError, match="Expecting value"):
        json.loads(smollm2.chat(question, params).text)


def test_a_real_model_chooses_among_texts(smollm2: LLM) -> None:
    question = [{"role": "user", "content": "Is snow hot or cold? Answer in one word."}]
    guide = Guide(choice=("hot", "cold"))
    params = SamplingParams(temperature=1.5, max_tokens=8, guide=guide)
    texts = {
        smollm2.chat(question, params.model_copy(update={"seed": seed})).text for seed in range(12)
    }
    assert texts <= {"hot", "cold"}


def test_a_real_model_goes_on_for_as_long_as_it_must(smollm2: LLM) -> None:
    question = [{"role": "user", "content": "Say hello."}]
    short = smollm2.chat(question, SamplingParams(temperature=0, max_tokens=200))
    assert short.finish_reason == "stop"
    least = short.usage.completion_tokens + 20
    params = SamplingParams(temperature=0, max_tokens=least + 50, min_tokens=least)
    longer = smollm2.chat(question, params)
    assert longer.usage.completion_tokens >= least
    assert longer.text.startswith(short.text)
    endless = SamplingParams(temperature=0, max_tokens=least, ignore_eos=True)
    assert smollm2.chat(question, endless).finish_reason == "length"


def test_a_guide_that_becomes_too_complex_says_so_briefly(guides: Guides) -> None:
    options = " | ".join(f'"option {number} of many"' for number in range(3_000))
    guided = guides.begin(Guide(grammar=f"start: {options}"))
    while guided.problem is None:
        guided.take(ids(guided)[0])
        assert not guided.is_finished
    assert len(guided.problem) <= 500
    with pytest.raises(ValidationError, match="at most 1000"):
        Guide(choice=tuple(map(str, range(1_001))))


@pytest.mark.parametrize("adds_space", [True, False])
def test_tokenizers_that_begin_a_text_with_a_space_are_guided_too(adds_space: bool) -> None:
    """Forced bytes are tokenised in the middle of an answer, where no space comes first."""
    file = Path(__file__).parents[1] / "models" / "data" / "sentencepiece.json"
    data = json.loads(file.read_text("utf-8"))
    entries = {name: data[name] for name in ("tokens", "scores", "token_type")}
    ends = {"model": "llama", "bos_token_id": 1, "eos_token_id": 2, "add_space_prefix": adds_space}
    metadata = {f"tokenizer.ggml.{name}": value for name, value in {**entries, **ends}.items()}
    tokenizer = Tokenizer.from_gguf(metadata)
    own = Guides(tokenizer, tokenizer.vocabulary_size, [2])
    for guide, expected in (
        (Guide(choice=("yes",)), "yes"),
        (Guide(json_schema={"const": {"a": 1}}), '{"a": 1}'),
    ):
        guided, found = own.begin(guide), list[int]()
        while not guided.is_finished:
            token = ids(guided)[0]
            guided.take(token)
            assert guided.problem is None
            found.append(token)
        shown = [token for token in found if not tokenizer.is_special(token)]
        assert b"".join(map(tokenizer.token_bytes, shown)).decode() == expected


def test_a_guide_that_fails_on_the_way_is_the_requests_own_fault() -> None:
    options = " | ".join(f'"option {number} of many"' for number in range(3_000))
    guide = Guide(grammar=f"start: {options}", field="guided_grammar")
    beside = make_request([1, 2, 3], max_tokens=5)
    failed, fine = drive(make_engine(FakeExecutor()), make_request([1], guide=guide), beside)
    assert failed.final.finish_reason == "error"
    assert failed.final.parameter == "guided_grammar"
    assert (fine.final.finish_reason, len(fine.tokens)) == ("length", 5)


def test_schemas_of_any_number_cross_to_the_worker() -> None:
    guide = Guide(json_schema={"maximum": 10**19})
    request = make_request([1], guide=guide)
    (body,) = FrameReader().feed(encode_frame(Add(request)))
    assert decode_command(body) == Add(request)
