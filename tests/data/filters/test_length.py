import pytest
from pydantic import ValidationError

from tests.data.filters.filtering import judged, taken_out
from yearling.core.messages import parse_messages
from yearling.data.examples import Conversation, Turn


@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"min_characters": 4}, [1]),
        ({"max_characters": 4}, [2, 3]),
        ({"min_words": 2}, [1]),
        ({"max_words": 4}, [3]),
        ({"min_characters": 4, "max_words": 4}, [1, 3]),
    ],
)
def test_length_takes_out_what_is_beyond_its_bounds(
    options: dict[str, int], gone: list[int]
) -> None:
    assert taken_out("length", ["one", "two words", "这是五个字"], **options) == gone


def test_turns_are_counted() -> None:
    message = parse_messages([{"role": "user", "content": "Hi"}])[0]
    long = Conversation((Turn(message, False),) * 5)
    assert taken_out("length", [long], max_turns=5) == []
    (said,) = judged("length", [long], max_turns=4)
    assert said is not None
    assert (said.reason, said.detail) == ("it has more than 4 turns", "5")


def test_bounds_must_say_something_and_leave_room() -> None:
    with pytest.raises(ValidationError, match="at least one bound"):
        judged("length", [])
    with pytest.raises(ValidationError, match="min_words=3 is above max_words=2"):
        judged("length", [], min_words=3, max_words=2)
