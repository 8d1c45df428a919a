"""The page on a phone: one column, conversations in a drawer."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import OpenChat
from tests.browser.driving import ChatPage


@pytest.fixture
def phone(open_chat: OpenChat) -> ChatPage:
    size = {"width": 390, "height": 844}
    return open_chat(viewport=size, has_touch=True, is_mobile=True)


def is_inside(chat: ChatPage) -> bool:
    widths: list[int] = chat.page.evaluate(
        "[...document.querySelectorAll('html, .messages')].map(box => box.scrollWidth)"
    )
    return max(widths) <= 390


def test_question_is_answered(phone: ChatPage) -> None:
    assert is_inside(phone)
    phone.composer.fill("Why is the sky blue?")
    phone.button("Send").tap()
    phone.wait_until_done()
    assert phone.text()
    assert is_inside(phone)


def test_wide_content_scrolls_inside_its_own_box(phone: ChatPage) -> None:
    wide = "x = " + "1 + " * 80 + "1"
    cells = "|" + "a long heading|" * 12
    formula = "$$" + "a + " * 60 + "b$$"
    phone.answer_with(
        f"```python\n{wide}\n```\n\n{cells}\n{'|-' * 12}|\n{cells}\n\n{formula}\n\n{'w' * 300}"
    )
    phone.ask("Something wide")
    expect(phone.answers.locator(".katex").first).to_be_visible()
    assert is_inside(phone)
    column = phone.page.locator(".column").bounding_box()
    assert column is not None
    assert column["width"] <= 390


def test_drawer_opens_and_closes(phone: ChatPage) -> None:
    phone.answer_with("Fine.")
    phone.ask("Hello")
    drawer = phone.page.get_by_role("navigation", name="Conversations")
    expect(drawer).to_be_hidden()
    phone.button("Show conversations").tap()
    expect(drawer).to_be_in_viewport()
    phone.page.keyboard.press("Escape")
    expect(drawer).to_be_hidden()
    phone.button("New chat").tap()
    phone.button("Show conversations").tap()
    phone.rows.first.get_by_role("button").first.tap()
    expect(drawer).to_be_hidden()
    expect(phone.questions).to_have_text(["Hello"])
