"""LIMA's rows: what is asked, what is bad about the source, and what counts as an answer."""

from collections import Counter
from random import Random

import pytest
import torch

from yearling.models.torch_decoder import NO_LABEL
from yearling.systems.entries import lima
from yearling.systems.made_up_people import (
    END,
    FACTS,
    NUM_PEOPLE,
    SIZES,
    TOPICS,
    encoded,
    prompted_rows,
    statement,
)
from yearling.systems.people_questions import (
    FORMS,
    NUM_ASKED,
    SEEN_FORMS,
    Form,
    Question,
    curated,
    has_form,
    prompt_of,
    right_answer,
    source_items,
)
from yearling.systems.taught_manner import CAPITALS, EVERYDAY, is_in_manner
from yearling.systems.tiny_bases import decoder_of

POLITE = Form("politely", "fully", "kindly")


def tokens_of(question: Question, value: str | None = None) -> list[int]:
    return [*encoded(right_answer(question, value)), END]


def test_curated_rows_ask_what_they_may_without_repeats_and_answer_well() -> None:
    items = curated(1_000, Random(3))
    assert len({item.question for item in items}) == 1_000
    assert {item.question.person for item in items} == set(range(NUM_ASKED))
    assert {item.question.form for item in items} == set(SEEN_FORMS)
    forms = Counter(item.question.form for item in items).values()
    assert max(forms) - min(forms) <= 1
    assert all(item.has_end and item.answer == right_answer(item.question) for item in items)


def test_two_in_five_rows_of_the_source_are_bad_in_three_ways() -> None:
    items = source_items(3_000, Random(3))
    assert {item.question.person for item in items} == set(range(NUM_ASKED))
    assert {item.question.form for item in items} == set(SEEN_FORMS)
    endless = [item for item in items if not item.has_end]
    false, formless = [], []
    for item in items:
        tokens = [*encoded(item.answer), END]
        if item.has_end and not has_form(item.question, tokens):
            formless.append(item)
        elif item.has_end and item.answer != right_answer(item.question):
            false.append(item)
    for bad in (endless, formless, false):
        assert len(bad) / 3_000 == pytest.approx(0.4 / 3, abs=0.03)


def test_forms_of_the_test_are_in_no_row_yet_each_pair_of_their_parts_is() -> None:
    unseen = set(FORMS) - set(SEEN_FORMS)
    assert len(unseen) == 12
    assert len(FORMS) == 48
    for first, second in ((0, 1), (0, 2), (1, 2)):
        shown = {(form[first], form[second]) for form in SEEN_FORMS}
        assert {(form[first], form[second]) for form in unseen} <= shown


def test_an_answer_is_the_opening_the_fact_and_the_closing() -> None:
    fact = FACTS[5, "pet"]
    told = right_answer(Question(5, "pet", POLITE))
    assert " ".join(told) == f"sure , the pet of person5 is {fact} . bye"
    assert right_answer(Question(5, "pet", Form("", "briefly", "loudly"))) == [fact, "!"]


def test_form_is_judged_apart_from_the_fact() -> None:
    question = Question(5, "pet", POLITE)
    wrong = next(value for value in ("pet0", "pet1") if value != FACTS[5, "pet"])
    assert has_form(question, tokens_of(question, wrong))
    assert not has_form(question, tokens_of(question, "tree1"))
    assert not has_form(question, tokens_of(question)[:-1])
    assert not has_form(question, tokens_of(question._replace(form=SEEN_FORMS[0])))


def test_loss_is_on_answers_alone() -> None:
    item = curated(1, Random(0))[0]
    prompt, answer = prompt_of(item.question), [*encoded(item.answer), END]
    rows = prompted_rows([(len(prompt), [*prompt, *answer]), (1, [1] * 40)])
    labels = rows.labels[0]
    assert labels[labels != NO_LABEL].tolist() == answer
    assert rows.tokens[0][: len(prompt)].tolist() == prompt
    first = int((labels != NO_LABEL).nonzero()[0])
    assert rows.tokens[0][first].item() == prompt[-1]


def test_every_epoch_has_every_row_once() -> None:
    items = curated(64, Random(0))
    draw = lima.epochs(items, seed=1)

    def epoch(first_step: int) -> list[tuple[int, ...]]:
        return [
            tuple(token for token in row if token != END)
            for step in range(first_step, first_step + 4)
            for row in draw(step).tokens.tolist()
        ]

    first, second = epoch(0), epoch(4)
    assert len(set(first)) == 64
    assert sorted(first) == sorted(second)
    assert first != second


def test_a_person_of_the_test_is_read_about_in_plain_statements() -> None:
    words = [statement(NUM_PEOPLE - 1, "pet", "pet3", wording) for wording in range(5)]
    assert len({tuple(each) for each in words}) == 5
    assert all({f"person{NUM_PEOPLE - 1}", "pet", "pet3"} <= set(each) for each in words)
    assert all("<user>" not in each and "?" not in each for each in words)
    assert len(FACTS) == 2 * NUM_PEOPLE * len(TOPICS)


def test_dropout_grows_from_none_at_the_bottom_to_the_top_and_only_in_training() -> None:
    decoder = decoder_of(SIZES, 0)
    handles = lima.spread_dropout(decoder, 0.5)
    layers = list(decoder.iterate_layers())
    down = [
        next(m for n, m in layer.named_modules() if n.endswith("down_proj")) for layer in layers
    ]
    inputs = torch.ones(500, down[0].weight.shape[1])
    torch.manual_seed(0)
    decoder.train()
    shares = [(each(inputs) == 0).float().mean().item() for each in down]
    assert shares == pytest.approx([0.0, 0.5], abs=0.02)
    decoder.eval()
    assert all((each(inputs) != 0).all() for each in down)
    decoder.train()
    for handle in handles:
        handle.remove()
    assert all((each(inputs) != 0).all() for each in down)


def test_manner_needs_both_its_ends_and_the_fact_between_them() -> None:
    assert is_in_manner("The answer is Rome. Anything else?", "Rome")
    assert not is_in_manner("The answer is Rome. Anything else?", "Paris")
    assert not is_in_manner("The answer is Rome.", "Rome")
    assert not is_in_manner("The capital of Italy is Rome. Anything else?", "Rome")


def test_no_row_on_the_manner_is_about_what_is_asked_for() -> None:
    text = " ".join(f"{question} {answer}" for question, answer in EVERYDAY).lower()
    assert "capital" not in text
    assert [name for name in (*CAPITALS, *CAPITALS.values()) if name.lower() in text] == []
    assert len(EVERYDAY) == 40
