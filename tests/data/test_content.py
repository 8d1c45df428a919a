from yearling.core.messages import ContentPart, Message, ToolCall
from yearling.data.content import content_hash, loose_hash, num_turns, texts_of, words_of
from yearling.data.examples import Continuation, Conversation, Document, Preference, Turn


def said(role: str, text: str) -> Message:
    return Message(role, (ContentPart(text),))  # type: ignore[arg-type]


def test_content_hash_tells_everything_apart() -> None:
    hi = said("user", "Hi")
    examples = [
        Document("Hi"),
        Continuation("Hi", ""),
        Continuation("", "Hi"),
        Conversation((Turn(hi, False),)),
        Conversation((Turn(hi, True),)),
        Conversation((Turn(said("assistant", "Hi"), False),)),
        Conversation((Turn(hi, False),), ({"name": "add"},)),
        Conversation((Turn(Message("assistant", (), None, (ToolCall("1", "a", "{}"),)), True),)),
        Preference((hi,), (said("assistant", "a"),), (said("assistant", "b"),)),
        Preference((hi,), (said("assistant", "b"),), (said("assistant", "a"),)),
    ]
    assert len({content_hash(example) for example in examples}) == len(examples)
    assert content_hash(Document("Hi")) == content_hash(Document("Hi"))


def test_loose_hash_sees_words_only() -> None:
    assert loose_hash(Document("The  FIRST year!")) == loose_hash(Document("the first year"))
    assert loose_hash(Document("the second year")) != loose_hash(Document("the first year"))
    assert loose_hash(Document("!!")) != loose_hash(Document("??"))


def test_words_of_chinese_are_its_characters() -> None:
    assert words_of("大语言模型 GPT-4") == ["大", "语", "言", "模", "型", "gpt", "4"]


def test_texts_and_turns_of_a_preference_are_all_of_its_messages() -> None:
    pair = Preference((said("user", "a"),), (said("assistant", "b"),), (said("assistant", "c"),))
    assert list(texts_of(pair)) == ["a", "b", "c"]
    assert num_turns(pair) == 3
