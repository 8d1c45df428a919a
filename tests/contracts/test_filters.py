"""What every filter promises: it judges every kind of example, alike in every pass."""

from typing import Any

import pytest

from yearling.core.messages import parse_messages
from yearling.data.examples import Continuation, Conversation, Document, Preference, Turn
from yearling.data.filters import filters
from yearling.data.rows import RowId

OPTIONS: dict[str, dict[str, Any]] = {
    "decontamination": {"texts": ["one two three four five six seven"]},
    "language": {"languages": ["en"]},
    "length": {"min_words": 2},
}
(MESSAGE,) = parse_messages([{"role": "assistant", "content": "The answer is four."}])
(WORSE,) = parse_messages([{"role": "assistant", "content": "one two three four five six seven"}])
EXAMPLES = [
    Document("A text of some words, which is long enough to be judged."),
    Document(""),
    Continuation("one two three", " four five six seven"),
    Conversation((Turn(MESSAGE, True),)),
    Document("Der Ausschuss traf sich am Donnerstag, um über den Haushalt zu beraten."),
    Preference((MESSAGE,), (MESSAGE,), (WORSE,)),
    Document("A text of some words, which is long enough to be judged."),
]

each_filter = pytest.mark.parametrize("name", filters.names())


@each_filter
def test_filter_judges_every_kind_alike_in_every_pass(name: str) -> None:
    kind = filters.get(name)
    config = kind.config.model_validate(OPTIONS.get(name, {}))
    passes = []
    for _ in range(2):
        judge = kind.build(config)
        passes.append([judge(RowId("a", n), one) for n, one in enumerate(EXAMPLES)])
    assert passes[0] == passes[1]
    reasons = [said.reason for said in passes[0] if said is not None]
    assert reasons, f"the examples show nothing of what {name} takes out"
    assert all(reason[0].islower() and not reason.endswith(".") for reason in reasons)


@each_filter
def test_filter_says_what_it_does(name: str) -> None:
    kind = filters.get(name)
    assert kind.summary.startswith("takes out ")
    assert all(field.description for field in kind.config.model_fields.values())
