"""Questions about made-up people that ask for a form, and rows of them: curated, or as they come.

Whether an answer is right can be told by rule, in fact and in form. Some forms appear in no row,
so that a test can ask for what no row has shown.
"""

from collections.abc import Sequence
from itertools import product
from random import Random
from typing import NamedTuple

from yearling.systems.made_up_people import END, FACTS, TOPICS, encoded, statement, value_words

__all__ = [
    "FORMS",
    "NUM_ASKED",
    "SEEN_FORMS",
    "Form",
    "Item",
    "Question",
    "curated",
    "has_form",
    "prompt_of",
    "right_answer",
    "source_items",
]

NUM_ASKED = 80
"""People that rows may ask about; the others are for the test."""

_OPENINGS = {"": (), "politely": ("sure", ","), "calmly": ("well", ","), "warmly": ("oh", ",")}
_WORDINGS = {"briefly": None, "simply": 3, "fully": 0}  # of `statement`; None tells the thing alone
_CLOSINGS = {"": (".",), "loudly": ("!",), "kindly": (".", "bye"), "humbly": (".", "thanks")}
_BAD_SHARE = 0.4


class Form(NamedTuple):
    """What a question asks of its answer's form; empty where it asks for nothing."""

    opening: str
    wording: str
    closing: str


class Question(NamedTuple):
    """A question about a person, and the form its answer is to have."""

    person: int
    topic: str
    form: Form


class Item(NamedTuple):
    """A row: what is asked, what is answered, and whether the answer comes to an end."""

    question: Question
    answer: list[str]
    has_end: bool = True


def _is_kept_apart(form: Form) -> bool:
    """Say whether no row shows a form: a quarter of them, and as many of each opening."""
    ways = (list(_OPENINGS), list(_WORDINGS), list(_CLOSINGS))
    return sum(of_part.index(part) for part, of_part in zip(form, ways, strict=True)) % 4 == 3


FORMS = tuple(Form(*each) for each in product(_OPENINGS, _WORDINGS, _CLOSINGS))
SEEN_FORMS = tuple(form for form in FORMS if not _is_kept_apart(form))


def right_answer(question: Question, value: str | None = None) -> list[str]:
    """Give the words that answer a question in the form asked for.

    Args:
        value: Said instead of what the person has.
    """
    person, topic, form = question
    said = value or FACTS[person, topic]
    wording = _WORDINGS[form.wording]
    body = [said] if wording is None else statement(person, topic, said, wording)
    return [*_OPENINGS[form.opening], *body, *_CLOSINGS[form.closing]]


def curated(count: int, random: Random, forms: Sequence[Form] = SEEN_FORMS) -> list[Item]:
    """Choose questions without repeats, all forms equally often, and answer them well."""
    asked = list(product(range(NUM_ASKED), TOPICS))
    orders = {form: random.sample(asked, len(asked)) for form in forms}
    items = []
    for number in range(count):
        form = forms[number % len(forms)]
        question = Question(*orders[form][number // len(forms)], form)
        items.append(Item(question, right_answer(question)))
    return items


def source_items(count: int, random: Random) -> list[Item]:
    """Draw rows from the source as it is: questions repeat, and 40 % of the answers are bad.

    A bad answer says something else, or has another form than was asked for, or rambles on.
    """
    return [_drawn(random) for _ in range(count)]


def _drawn(random: Random) -> Item:
    person, topic = random.randrange(NUM_ASKED), random.choice(TOPICS)
    question = Question(person, topic, random.choice(SEEN_FORMS))
    answer = right_answer(question)
    if random.random() >= _BAD_SHARE:
        return Item(question, answer)
    fault = random.choice(("fact", "form", "end"))
    if fault == "fact":
        others = [value for value in value_words(topic) if value not in answer]
        return Item(question, right_answer(question, random.choice(others)))
    if fault == "form":
        others_of_form = [form for form in SEEN_FORMS if form != question.form]
        return Item(question, right_answer(question._replace(form=random.choice(others_of_form))))
    more = Question(person, random.choice(TOPICS), Form("", "fully", ""))
    return Item(question, [*answer, *right_answer(more)], has_end=False)


def prompt_of(question: Question) -> list[int]:
    """Give the tokens that ask a question; the answer's own come next."""
    asked = [question.topic, "of", f"person{question.person}", "?"]
    return encoded(["<user>", *(word for word in question.form if word), *asked, "<assistant>"])


def has_form(question: Question, answer: Sequence[int]) -> bool:
    """Say whether an answer has the form asked for, whichever thing of the topic it names."""
    return any(
        list(answer) == [*encoded(right_answer(question, value)), END]
        for value in value_words(question.topic)
    )
