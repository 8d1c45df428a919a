"""Sampling, model, language and theme: chosen once, kept, and obeyed."""

from playwright.sync_api import expect

from tests.browser.conftest import SERVED_NAMES, OpenChat
from tests.browser.driving import ChatPage


def expect_background(chat: ChatPage, colour: str) -> None:
    expect(chat.page.locator("html")).to_have_css("background-color", colour)


LIGHT = "rgb(246, 248, 245)"
DARK = "rgb(15, 20, 18)"


def test_sampling_settings_reach_the_request_and_stay(chat: ChatPage) -> None:
    chat.button("Settings").click()
    dialog = chat.page.get_by_role("dialog", name="Settings")
    dialog.get_by_label("Instructions for the model").fill("Answer in one word.")
    dialog.get_by_label("Temperature").fill("0.8")
    dialog.get_by_label("Top-p").fill("0.5")
    dialog.get_by_label("Longest answer, in tokens").fill("7")
    dialog.get_by_label("Seed").fill("42")
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()
    chat.ask("What is the capital of France?")
    body = chat.bodies[-1]
    assert body["messages"][0] == {"role": "system", "content": "Answer in one word."}
    sampling = {name: body[name] for name in ("temperature", "top_p", "max_tokens", "seed")}
    assert sampling == {"temperature": 0.8, "top_p": 0.5, "max_tokens": 7, "seed": 42}
    assert body["stream"] is True
    chat.reload()
    chat.button("Settings").click()
    expect(dialog.get_by_label("Seed")).to_have_value("42")
    dialog.get_by_role("button", name="Reset to defaults").click()
    expect(dialog.get_by_label("Seed")).to_have_value("")
    expect(dialog.get_by_label("Instructions for the model")).to_have_value("")


def test_unset_seed_and_limit_are_not_sent(open_chat: OpenChat) -> None:
    chat = open_chat(settings={"maxTokens": None})
    chat.answer_with("Fine.")
    chat.ask("Hello")
    assert not {"seed", "max_tokens"} & set(chat.bodies[-1])


def test_language_switches_and_stays(chat: ChatPage) -> None:
    expect(chat.button("New chat").first).to_be_visible()
    chat.button("中文").click()
    expect(chat.page.get_by_role("heading", name="想聊点什么？")).to_be_visible()
    expect(chat.composer).to_have_attribute("placeholder", "想问什么都可以")
    expect(chat.page.locator("html")).to_have_attribute("lang", "zh-CN")
    chat.reload()
    expect(chat.page.get_by_role("heading", name="想聊点什么？")).to_be_visible()
    chat.button("English").click()
    expect(chat.page.get_by_role("heading", name="What’s on your mind?")).to_be_visible()


def test_language_switch_reaches_messages_that_are_there(chat: ChatPage) -> None:
    chat.answer_with("```python\nprint(1)\n```\n")
    chat.ask("Code")
    chat.button("中文").click()
    expect(chat.page.locator(".code-block button")).to_have_text("复制")
    expect(chat.answers.locator(".speed")).to_contain_text("个词元")


def test_chinese_browser_gets_chinese(open_chat: OpenChat) -> None:
    chat = open_chat(locale="zh-CN")
    expect(chat.page.get_by_role("heading", name="想聊点什么？")).to_be_visible()


def test_theme_follows_the_system_until_chosen(open_chat: OpenChat) -> None:
    chat = open_chat(color_scheme="dark")
    expect_background(chat, DARK)
    chat.button("System theme").click()
    expect(chat.button("Light theme")).to_be_visible()
    expect_background(chat, LIGHT)
    chat.reload()
    expect_background(chat, LIGHT)
    chat.button("Light theme").click()
    expect(chat.button("Dark theme")).to_be_visible()
    chat.page.emulate_media(color_scheme="light")
    expect_background(chat, DARK)
    chat.button("Dark theme").click()
    expect(chat.button("System theme")).to_be_visible()
    expect_background(chat, LIGHT)


def test_models_that_arrive_before_effects_run_are_shown(chat: ChatPage) -> None:
    # Preact runs effects in a timeout after a frame: make it come later than the server's answer.
    chat.page.add_init_script(
        "const later = window.setTimeout;"
        "window.setTimeout = (work, wait = 0, ...rest) => later(work, wait + 1500, ...rest);"
    )
    chat.reload()
    expect(chat.picker).to_be_enabled(timeout=5_000)


def test_picked_model_answers_and_stays(chat: ChatPage) -> None:
    expect(chat.picker.locator("option")).to_have_text(SERVED_NAMES)
    assert chat.ask("Hello")
    chat.picker.select_option(SERVED_NAMES[1])
    assert chat.ask("Hello again")
    assert [body["model"] for body in chat.bodies] == list(SERVED_NAMES)
    chat.reload()
    expect(chat.picker).to_have_value(SERVED_NAMES[1])
