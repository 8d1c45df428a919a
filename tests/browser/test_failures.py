"""When something goes wrong the page says what, keeps what has come, and offers a way on."""

import json

from playwright.sync_api import Route, expect

from tests.browser.conftest import OpenChat
from tests.browser.driving import COMPLETIONS, ChatPage, event_stream

REFUSED = "Failed to load resource"


def refusal(status: int, code: str, message: str) -> dict[str, object]:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return {"status": status, "json": {"error": error}}


def test_error_inside_a_stream_keeps_the_partial_answer(chat: ChatPage) -> None:
    error = {"error": {"message": "The worker ended.", "type": "server_error", "code": None}}
    chat.answer_with("Half an ", "answer", tail=f"data: {json.dumps(error)}\n\n")
    chat.send("Hello")
    failure = chat.answers.get_by_role("alert")
    expect(failure).to_contain_text("The server failed while answering.")
    expect(failure).to_contain_text("The worker ended.")
    assert chat.text() == "Half an answer"
    chat.page.unroute(COMPLETIONS)
    failure.get_by_role("button", name="Try again").click()
    chat.wait_until_done()
    expect(chat.answers.get_by_role("alert")).to_have_count(0)
    expect(chat.answers.locator(".branches")).to_contain_text("2/2")


def test_stream_that_breaks_off_is_told(chat: ChatPage) -> None:
    chat.answer_with("Half an answer", tail=" ")
    chat.send("Hello")
    expect(chat.answers.get_by_role("alert")).to_contain_text("The server does not answer.")
    assert chat.text() == "Half an answer"


def test_absent_server_is_told_and_found_again(open_chat: OpenChat) -> None:
    chat = open_chat(before=[("**/v1/models", lambda route: route.abort())])
    chat.expected_errors = REFUSED
    notice = chat.page.locator(".notice")
    expect(notice).to_contain_text("The server does not answer.")
    expect(chat.button("Send")).to_be_disabled()
    chat.page.unroute("**/v1/models")
    expect(notice).to_have_count(0, timeout=6000)
    assert chat.ask("Hello")


def test_server_with_keys_is_opened_with_one(open_chat: OpenChat) -> None:
    def demand_key(route: Route) -> None:
        if route.request.headers.get("authorization") == "Bearer sesame":
            route.continue_()
        else:
            route.fulfill(**refusal(401, "invalid_api_key", "No key was given."))

    chat = open_chat(before=[("**/v1/**", demand_key)])
    chat.expected_errors = REFUSED
    field = chat.page.get_by_label("The server asks for an API key.")
    field.fill("sesame")
    field.press("Enter")
    expect(field).to_have_count(0)
    assert chat.ask("Hello")
    assert chat.keys == ["Bearer sesame"]
    chat.reload()
    assert chat.ask("Hello again")


def test_too_long_conversation_offers_a_new_one(open_chat: OpenChat) -> None:
    chat = open_chat(settings={"maxTokens": None})
    chat.expected_errors = REFUSED
    message = "The prompt has 9000 tokens, the context window 8192."
    chat.page.route(
        COMPLETIONS,
        lambda route: route.fulfill(**refusal(400, "context_length_exceeded", message)),
    )
    chat.send("Hello")
    failure = chat.answers.get_by_role("alert")
    expect(failure).to_contain_text("longer than the model can read")
    expect(failure).to_contain_text(message)
    failure.get_by_role("button", name="New chat").click()
    expect(chat.answers).to_have_count(0)


def test_limit_that_does_not_fit_is_left_to_the_server(chat: ChatPage) -> None:
    chat.expected_errors = REFUSED

    def answer_without_limit(route: Route) -> None:
        if "max_tokens" in route.request.post_data_json:
            route.fulfill(**refusal(400, "context_length_exceeded", "Together too long."))
        else:
            route.fulfill(content_type="text/event-stream", body=event_stream("It fits."))

    chat.page.route(COMPLETIONS, answer_without_limit)
    assert chat.ask("Hello") == "It fits."


def test_refused_request_shows_the_server_s_words(chat: ChatPage) -> None:
    chat.expected_errors = REFUSED
    chat.page.route(
        COMPLETIONS,
        lambda route: route.fulfill(**refusal(429, "overloaded", "128 requests are waiting.")),
    )
    chat.send("Hello")
    failure = chat.answers.get_by_role("alert")
    expect(failure).to_contain_text("The server is busy")
    expect(failure).to_contain_text("128 requests are waiting.")
