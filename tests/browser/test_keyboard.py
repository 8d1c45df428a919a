"""Everything can be done without a mouse, and the focus is where one expects it."""

from playwright.sync_api import expect

from tests.browser.conftest import OpenChat
from tests.browser.driving import ChatPage


def test_enter_sends_and_shift_enter_starts_a_line(chat: ChatPage) -> None:
    chat.answer_with("Fine.")
    expect(chat.composer).to_be_focused()
    chat.page.keyboard.type("one")
    chat.page.keyboard.press("Shift+Enter")
    chat.page.keyboard.type("two")
    expect(chat.composer).to_have_value("one\ntwo")
    expect(chat.button("Send")).to_be_enabled()
    chat.page.keyboard.press("Enter")
    chat.wait_until_done()
    assert chat.bodies[-1]["messages"][-1]["content"] == "one\ntwo"
    expect(chat.composer).to_have_value("")
    expect(chat.composer).to_be_focused()


def test_enter_that_ends_a_composition_sends_nothing(chat: ChatPage) -> None:
    chat.composer.fill("你好")
    chat.composer.evaluate(
        """field => field.dispatchEvent(new KeyboardEvent(
             'keydown', {key: 'Enter', isComposing: true, bubbles: true, cancelable: true}))"""
    )
    chat.page.wait_for_timeout(100)
    expect(chat.composer).to_have_value("你好")
    assert chat.bodies == []


def test_blank_message_is_not_sent(chat: ChatPage) -> None:
    chat.composer.fill("  \n ")
    expect(chat.button("Send")).to_be_disabled()
    chat.composer.press("Enter")
    assert chat.bodies == []


def test_escape_stops_the_answer(open_chat: OpenChat) -> None:
    chat = open_chat(settings={"maxTokens": 1024})
    chat.send("Write a very long story about the sea.")
    chat.wait_for_text(10)
    chat.page.keyboard.press("Escape")
    expect(chat.answers.locator(".remark")).to_have_text("Stopped.")


def test_control_k_starts_a_chat_and_focuses_the_field(chat: ChatPage) -> None:
    chat.answer_with("Fine.")
    chat.ask("Hello")
    chat.button("Settings").focus()
    chat.page.keyboard.press("Control+k")
    expect(chat.page.get_by_role("heading", name="What’s on your mind?")).to_be_visible()
    expect(chat.composer).to_be_focused()


def test_dialog_keeps_the_focus_and_gives_it_back(chat: ChatPage) -> None:
    chat.button("Settings").focus()
    chat.page.keyboard.press("Enter")
    dialog = chat.page.get_by_role("dialog", name="Settings")
    expect(dialog).to_be_visible()
    assert dialog.evaluate("dialog => dialog.contains(document.activeElement)")
    chat.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(chat.button("Settings")).to_be_focused()


def test_menu_is_walked_with_arrows_and_left_with_escape(chat: ChatPage) -> None:
    chat.answer_with("Fine.")
    chat.ask("Hello")
    opener = chat.button("Options for “Hello”")
    opener.focus()
    chat.page.keyboard.press("Enter")
    expect(chat.page.get_by_role("menuitem", name="Rename")).to_be_focused()
    chat.page.keyboard.press("ArrowUp")
    expect(chat.page.get_by_role("menuitem", name="Delete")).to_be_focused()
    chat.page.keyboard.press("Escape")
    expect(chat.page.get_by_role("menu")).to_have_count(0)
    expect(opener).to_be_focused()


def test_focus_is_visible_and_every_control_has_a_name(chat: ChatPage) -> None:
    chat.answer_with("Fine.")
    chat.ask("Hello")
    nameless = chat.page.evaluate(
        """() => [...document.querySelectorAll('button, input, select, textarea')]
             .filter(e => e.checkVisibility())
             .filter(e => !e.textContent.trim() && !e.ariaLabel && !e.labels?.length)
             .map(e => e.outerHTML)"""
    )
    assert nameless == []
    chat.button("Settings").focus()
    chat.page.keyboard.press("Tab")
    outline = chat.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"


def test_screen_readers_hear_that_an_answer_is_complete(chat: ChatPage) -> None:
    chat.answer_with("Fine.")
    chat.ask("Hello")
    status = chat.page.locator(".visually-hidden[role=status]")
    expect(status).to_have_text("The answer is complete.")
