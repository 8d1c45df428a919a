"""Guides: whatever a model would rather say, the answer is what was asked for, to its end."""

import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from driving import drive, make_engine, make_request
from fake_executor import FakeExecutor
from fake_tokenizer import ByteTokenizer
from pydantic import ValidationError

from yearling.core.errors import RequestError, UnsupportedError
from yearling.kernels.reference_sampling import SamplingOptions, sample
from yearling.models.tokenizer import Tokenizer
from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.executor import SampleInput, SampleOutput, SequenceInput, SequenceOutput
from yearling.serving.generation import Generation
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


def test_a_token_is_permitted_exactly_where_the_mask_has_it(smollm2: LLM, guides: Guides) -> None:
    real = Guides(smollm2._tokenizer(), 49152, smollm2._model.eos_token_ids)
    size = ByteTokenizer.vocabulary_size
    for some, tokens in ((guides, range(size)), (real, range(0, 49152, 7))):
        for guide in (Guide(json_schema=PERSON), Guide(choice=("yes", "no, never", "no, thanks"))):
            guided, dice = some.begin(guide), random.Random(1)
            for _ in range(12):
                allowed = set(ids(guided))
                looked_at = {*tokens, *list(allowed)[:200]}
                assert {t for t in looked_at if guided.permits(t)} == allowed & looked_at
                guided.take(dice.choice(sorted(allowed)))
                if guided.is_finished or guided.problem is not None:
                    break


class Drawing(FakeExecutor):
    """Says a and b a quarter of the time each, and z else."""

    LOGITS = np.full(ByteTokenizer.vocabulary_size, -60.0)
    LOGITS[[ord("a"), ord("b"), ord("z")]] = np.log([0.25, 0.25, 0.5])

    def __init__(self) -> None:
        super().__init__(1024)
        self.num_again = 0

    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        outputs = super().execute(step)
        return [
            output if part.sample is None else SequenceOutput(self._draw(part.sample))
            for part, output in zip(step, outputs, strict=True)
        ]

    def choose_again(self, samples: Sequence[tuple[int, SampleInput]]) -> list[SampleOutput | None]:
        self.num_again += len(samples)
        return [self._draw(sample) for _, sample in samples]

    def _draw(self, wanted: SampleInput) -> SampleOutput:
        options = SamplingOptions(
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            seed=wanted.seed,
            output_index=wanted.output_index,
            allowed=wanted.allowed,
        )
        return SampleOutput(sample(self.LOGITS, options), math.nan)


@pytest.mark.parametrize(
    ("sampling", "share", "num_again"),
    [
        ({"temperature": 1.0}, 0.5, (340, 460)),
        ({"temperature": 0.0}, 1.0, (800, 800)),
        ({"temperature": 1.0, "top_p": 0.4}, 1.0, (0, 0)),  # with the mask a alone reaches it
        ({"temperature": 1.0, "logit_bias": {ord("c"): 1.0}}, 0.5, (0, 0)),
    ],
)
def test_a_free_choice_first_draws_as_masks_alone_do(
    sampling: dict[str, Any], share: float, num_again: tuple[int, int]
) -> None:
    """Four and a half standard errors; a second choice by the first one's number would be b."""
    executor = Drawing()
    engine = Engine(
        executor,
        ByteTokenizer(),
        context=64,
        eos_token_ids=(END,),
        config=EngineConfig(max_waiting=None),
        vocabulary=258,
    )
    guide = Guide(regex="[ab]")
    requests = [
        make_request([1, 2, 3], seed=seed, max_tokens=1, guide=guide, **sampling)
        for seed in range(800)
    ]
    counts = Counter(chr(answer.tokens[0]) for answer in drive(engine, *requests))
    assert set(counts) <= {"a", "b"}
    assert abs(counts["a"] - 800 * share) <= 64 * (share < 1)
    assert num_again[0] <= executor.num_again <= num_again[1]


def test_an_answer_guided_by_free_choices_is_the_one_of_masks(
    smollm2: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = SamplingParams(temperature=0, max_tokens=60, guide=Guide(json_schema=PERSON))
    chosen = smollm2.generate(["A person:"], params)[0].tokens
    monkeypatch.setattr(Generation, "may_choose_first", False)
    assert smollm2.generate(["A person:"], params)[0].tokens == chosen


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
