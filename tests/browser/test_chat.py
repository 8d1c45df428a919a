"""The main job: ask, see the answer grow, stop it, ask again, change the question."""

import re

from playwright.sync_api import expect

from tests.browser.conftest import OpenChat
from tests.browser.driving import ANSWER_MILLISECONDS, ChatPage


def watch_answer(chat: ChatPage) -> None:
    """Keep every text that the growing answer shows."""
    chat.page.evaluate(
        """() => {
          window.seen = [];
          const look = () => {
            const text = [...document.querySelectorAll('.answer .prose')].at(-1)?.innerText ?? '';
            if (text !== window.seen.at(-1)) window.seen.push(text);
            requestAnimationFrame(look);
          };
          look();
        }"""
    )


def test_answer_streams_and_tells_its_speed(chat: ChatPage) -> None:
    watch_answer(chat)
    answer = chat.ask("Why is the sky blue?")
    # On a busy machine the page is watched a moment later than it is read.
    chat.page.wait_for_function("answer => window.seen.at(-1) === answer", arg=answer)
    seen = [text for text in chat.page.evaluate("window.seen") if text]
    assert len(set(seen)) >= 5, "the text came in one piece"
    assert [len(text) for text in seen] == sorted(len(text) for text in seen)
    expect(chat.answers.locator(".speed")).to_have_text(
        re.compile(r"^\d+ tokens · [\d,.]+ tokens/s · first after [\d.]+ s$")
    )
    expect(chat.questions).to_have_text(["Why is the sky blue?"])


def test_answer_cut_by_the_length_limit_says_so(open_chat: OpenChat) -> None:
    chat = open_chat(settings={"maxTokens": 6})
    chat.ask("Tell me a long story about a horse.")
    expect(chat.answers.locator(".remark")).to_contain_text("Cut off at the length limit")
    expect(chat.answers.locator(".speed")).to_contain_text("6 tokens")


def test_stop_keeps_what_has_come_and_lets_ask_again(open_chat: OpenChat) -> None:
    chat = open_chat(settings={"maxTokens": 1024})
    chat.send("Write a very long story about a young horse in the mountains.")
    chat.wait_for_text(40)
    chat.button("Stop").click()
    expect(chat.answers.locator(".remark")).to_have_text("Stopped.")
    stopped = chat.text()
    assert len(stopped) >= 40
    chat.page.wait_for_timeout(400)
    assert chat.text() == stopped
    chat.page.evaluate("localStorage['yearling.settings'] = JSON.stringify({maxTokens: 8})")
    chat.reload()
    assert chat.text() == stopped
    assert chat.ask("And its name?")


def test_regenerate_keeps_the_older_answer_a_branch_away(chat: ChatPage) -> None:
    first = chat.ask("Name three fruits.")
    chat.button("Answer again").click()
    place = chat.answers.locator(".branches")
    expect(place).to_contain_text("2/2", timeout=ANSWER_MILLISECONDS)
    chat.wait_until_done()
    second = chat.text()
    chat.button("Previous version").click()
    expect(place).to_contain_text("1/2")
    assert chat.text() == first
    chat.button("Next version").click()
    expect(place).to_contain_text("2/2")
    assert chat.text() == second
    assert chat.bodies[0] == chat.bodies[1]


def test_edited_question_gets_a_new_answer_and_keeps_the_old_pair(chat: ChatPage) -> None:
    old_answer = chat.ask("Say one word about winter.")
    chat.questions.hover()
    chat.button("Edit message").click()
    field = chat.page.get_by_role("textbox", name="Edit message")
    expect(field).to_be_focused()
    field.fill("Say one word about summer.")
    field.press("Enter")
    expect(chat.questions.locator(".bubble")).to_have_text(["Say one word about summer."])
    chat.wait_until_done()
    assert chat.bodies[1]["messages"][-1]["content"] == "Say one word about summer."
    chat.button("Previous version").click()
    expect(chat.questions.locator(".bubble")).to_have_text(["Say one word about winter."])
    assert chat.text() == old_answer


def test_escape_leaves_an_edit_as_it_was(chat: ChatPage) -> None:
    chat.answer_with("Fine.")
    chat.ask("Hello")
    chat.questions.hover()
    chat.button("Edit message").click()
    expect(chat.page.get_by_role("textbox", name="Edit message")).to_be_focused()
    chat.page.keyboard.type(" there")
    chat.page.keyboard.press("Escape")
    expect(chat.questions.locator(".bubble")).to_have_text(["Hello"])
    assert len(chat.bodies) == 1


def test_next_question_sends_the_whole_conversation(chat: ChatPage) -> None:
    first = chat.ask("My name is Ada. Say hello.")
    chat.ask("What is my name?")
    sent = chat.bodies[-1]["messages"]
    assert [message["role"] for message in sent] == ["user", "assistant", "user"]
    assert sent[0]["content"] == "My name is Ada. Say hello."
    assert sent[2]["content"] == "What is my name?"
    assert sent[1]["content"].strip().split()[0] == first.split()[0]


def test_answer_goes_on_while_another_conversation_is_open(open_chat: OpenChat) -> None:
    chat = open_chat(settings={"maxTokens": 120})
    chat.send("Write a story about a lighthouse.")
    chat.wait_for_text(10)
    chat.page.keyboard.press("Control+k")
    expect(chat.answers).to_have_count(0)
    before = chat.rows.count()
    assert before == 1
    chat.rows.first.get_by_role("button").first.click()
    chat.wait_until_done()
    assert len(chat.text()) > 100


def test_example_question_starts_a_conversation(chat: ChatPage) -> None:
    chat.page.get_by_role("button", name=re.compile("^Plan")).click()
    expect(chat.questions).to_have_text(["Give me five tips for sleeping better."])
    chat.wait_until_done()
    assert chat.text()


def test_view_follows_the_answer_until_the_user_scrolls_up(chat: ChatPage) -> None:
    chat.answer_with(*[f"Paragraph {number}.\n\n" for number in range(60)])
    chat.ask("Many paragraphs, please.")
    remaining = "e => e.scrollHeight - e.scrollTop - e.clientHeight"
    box = chat.page.locator(".messages")
    assert box.evaluate(remaining) < 50
    box.hover()
    chat.page.mouse.wheel(0, -600)
    expect(chat.button("Go to the latest message")).to_be_visible()
    assert box.evaluate(remaining) > 300
    chat.button("Go to the latest message").click()
    expect(chat.button("Go to the latest message")).to_be_hidden()
    assert box.evaluate(remaining) < 50
