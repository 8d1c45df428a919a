"""Conversations stay in the browser: through reloads, renaming, deleting and exporting."""

import json
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import OpenChat
from tests.browser.driving import COMPLETIONS, ChatPage


def start(chat: ChatPage, *questions: str) -> None:
    for question in questions:
        chat.page.keyboard.press("Control+k")
        expect(chat.answers).to_have_count(0)
        chat.ask(question)


def open_menu(chat: ChatPage, title: str) -> None:
    chat.rows.filter(has_text=title).hover()
    chat.button(f"Options for “{title}”").click()


def test_reload_shows_the_same_conversation(chat: ChatPage) -> None:
    answer = chat.ask("Why is the sky blue?")
    chat.reload()
    expect(chat.questions).to_have_text(["Why is the sky blue?"])
    assert chat.text() == answer
    expect(chat.answers.locator(".speed")).to_be_visible()
    expect(chat.page).to_have_title("Why is the sky blue? · Yearling")


def test_reload_during_an_answer_keeps_what_has_come(open_chat: OpenChat) -> None:
    chat = open_chat(settings={"maxTokens": 1024})
    chat.send("Write a very long story about a young horse in the mountains.")
    chat.wait_for_text(40)
    seen = chat.text()
    chat.reload()
    expect(chat.answers.locator(".remark")).to_have_text("Stopped.")
    assert chat.text().startswith(seen)


def test_conversations_are_listed_newest_first_and_open_each_their_own(chat: ChatPage) -> None:
    chat.answer_with("Fine.")
    start(chat, "First question", "Second question")
    expect(chat.rows).to_have_text(["Second question", "First question"])
    chat.rows.nth(1).get_by_role("button").first.click()
    expect(chat.questions).to_have_text(["First question"])


def test_renamed_title_stays(chat: ChatPage) -> None:
    chat.answer_with("Fine.")
    start(chat, "Old title")
    open_menu(chat, "Old title")
    chat.page.get_by_role("menuitem", name="Rename").click()
    field = chat.page.get_by_role("textbox", name="Rename")
    field.fill("New title")
    field.press("Enter")
    expect(chat.rows).to_have_text(["New title"])
    chat.reload()
    expect(chat.rows).to_have_text(["New title"])


def test_deleted_conversation_is_gone_after_reload_unless_undone(chat: ChatPage) -> None:
    chat.answer_with("Fine.")
    start(chat, "Keep this", "Delete this")
    for is_undone in (True, False):
        open_menu(chat, "Delete this")
        chat.page.get_by_role("menuitem", name="Delete").click()
        expect(chat.rows).to_have_text(["Keep this"])
        if is_undone:
            chat.button("Undo").click()
            expect(chat.rows).to_have_count(2)
    chat.reload()
    expect(chat.rows).to_have_text(["Keep this"])


def test_search_finds_words_inside_messages(chat: ChatPage) -> None:
    chat.answer_with("A word nobody asked for: marmalade.")
    start(chat, "One", "Two", "Three", "Four", "Five")
    chat.page.unroute(COMPLETIONS)
    chat.answer_with("Plain.")
    start(chat, "Six")
    search = chat.page.get_by_role("searchbox", name="Search conversations")
    search.fill("MARMALADE")
    expect(chat.rows).to_have_count(5)
    search.fill("six")
    expect(chat.rows).to_have_text(["Six"])
    search.fill("nowhere")
    expect(chat.page.get_by_text("Nothing found.")).to_be_visible()


def test_export_writes_markdown_and_json(chat: ChatPage, tmp_path: Path) -> None:
    chat.answer_with("It is **blue**.")
    start(chat, "Which colour?")
    saved = {}
    for kind in ("Markdown", "JSON"):
        open_menu(chat, "Which colour?")
        with chat.page.expect_download() as download:
            chat.page.get_by_role("menuitem", name=f"Export as {kind}").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        saved[kind] = (path.name, path.read_text("utf-8"))
    name, text = saved["Markdown"]
    assert name == "Which-colour.md"
    assert text.startswith("# Which colour?\n\n## You\n\nWhich colour?\n")
    assert text.endswith("It is **blue**.\n")
    name, text = saved["JSON"]
    assert name == "Which-colour.json"
    roles = [(node["role"], node["text"]) for node in json.loads(text)["nodes"].values()]
    assert roles == [("user", "Which colour?"), ("assistant", "It is **blue**.")]
