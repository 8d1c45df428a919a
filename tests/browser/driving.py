"""The page as a test drives it: by roles and names, as a user finds things."""

import json
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from playwright.sync_api import Browser, Locator, Route, expect

COMPLETIONS = "**/v1/chat/completions"
SHORT_ANSWER_TOKENS = 32
ANSWER_MILLISECONDS = 60_000


class ChatPage:
    """One page in a profile of its own.

    Attributes:
        bodies: Of the completion requests so far, parsed.
        expected_errors: A pattern of console errors that the test causes on purpose.
    """

    def __init__(
        self,
        browser: Browser,
        url: str,
        *,
        settings: Mapping[str, Any] | None = None,
        before: Sequence[tuple[str, Any]] = (),
        **context: Any,
    ) -> None:
        options = {"locale": "en-US", "viewport": {"width": 1280, "height": 800}} | context
        self.url = url
        self.bodies: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.expected_errors = ""
        self._requested: list[str] = []
        self._errors: list[str] = []
        self._context = browser.new_context(**options)
        self._context.set_default_timeout(20_000)
        self.page = self._context.new_page()
        self.page.on("request", self._note_request)
        self.page.on("console", lambda line: self._note_line(line.type, line.text))
        self.page.on("pageerror", lambda error: self._errors.append(str(error)))
        for pattern, handler in before:
            self.page.route(pattern, handler)
        self._set_first_settings({"maxTokens": SHORT_ANSWER_TOKENS} | dict(settings or {}))
        self.page.goto(url)
        expect(self.composer).to_be_visible()

    def _set_first_settings(self, settings: Mapping[str, Any]) -> None:
        value = json.dumps(json.dumps(settings))
        self.page.add_init_script(
            f"localStorage['yearling.settings'] ??= {value};"
            "window.sawAttack = false; window.alert = () => { window.sawAttack = true; };"
        )

    def _note_request(self, request: Any) -> None:
        self._requested.append(request.url)
        if request.url.endswith("/v1/chat/completions"):
            self.bodies.append(request.post_data_json)
            self.keys.append(request.headers.get("authorization"))

    def _note_line(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self._errors.append(text)

    def close(self) -> None:
        self._context.close()

    def reload(self) -> None:
        self.page.reload()
        expect(self.composer).to_be_visible()

    def foreign_requests(self) -> list[str]:
        """Requests to anything but the server and the page's own memory."""
        own = (f"{self.url}/", "data:", "blob:")
        return [address for address in self._requested if not address.startswith(own)]

    def unexpected_errors(self) -> list[str]:
        pattern = self.expected_errors
        return [text for text in self._errors if not (pattern and re.search(pattern, text))]

    @property
    def composer(self) -> Locator:
        return self.page.locator("#composer")

    @property
    def picker(self) -> Locator:
        return self.page.get_by_role("combobox", name="Model", exact=True)

    @property
    def questions(self) -> Locator:
        return self.page.locator("article.question")

    @property
    def answers(self) -> Locator:
        return self.page.locator("article.answer")

    @property
    def rows(self) -> Locator:
        return self.page.locator(".conversations li")

    def button(self, name: str) -> Locator:
        return self.page.get_by_role("button", name=name, exact=True)

    def text(self, index: int = -1) -> str:
        """The text of an answer, without its tools."""
        return self.answers.nth(index).locator(".prose").inner_text()

    def send(self, text: str) -> None:
        expect(self.picker).to_be_enabled()
        self.composer.fill(text)
        self.composer.press("Enter")

    def wait_until_done(self) -> None:
        expect(self.answers.last.locator(".tools")).to_be_visible(timeout=ANSWER_MILLISECONDS)

    def wait_for_text(self, characters: int = 1) -> None:
        """Until the answer that grows has so many characters."""
        self.wait_for(
            "n => [...document.querySelectorAll('.answer .prose')].at(-1)?.innerText.length >= n",
            characters,
        )

    def wait_for(self, function: str, argument: object = None) -> None:
        """Until a JavaScript function answers with something true.

        Asked from outside each time: Playwright's own waiting evaluates text within the page from
        the second try on, which the page's content security policy forbids.
        """
        deadline = time.monotonic() + ANSWER_MILLISECONDS / 1000
        while not self.page.evaluate(function, argument):
            assert time.monotonic() < deadline, f"never true: {function}"
            self.page.wait_for_timeout(20)

    def ask(self, text: str) -> str:
        """Send, wait for the whole answer, and return it."""
        before = self.answers.count()
        self.send(text)
        expect(self.answers).to_have_count(before + 1)
        self.wait_until_done()
        return self.text()

    def answer_with(self, *texts: str, tail: str = "") -> None:
        """Answer the next requests in the server's place; for texts no model would write."""

        def fulfill(route: Route) -> None:
            route.fulfill(content_type="text/event-stream", body=event_stream(*texts, tail=tail))

        self.page.route(COMPLETIONS, fulfill)

    def evaluate_module(self, module: str, code: str, argument: object = None) -> Any:
        """Run `code`, a function of (module, argument), with one of the page's modules."""
        return self.page.evaluate(
            f"async (argument) => ({code})(await import('/assets/{module}'), argument)", argument
        )


def event_stream(*texts: str, tail: str = "") -> str:
    """An answer as the API streams it; `tail` takes the place of its regular end."""
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": len(texts)}}
    closing = tail or "".join([_frame(end), _frame(usage), "data: [DONE]\n\n"])
    return "".join(_frame(chunk) for chunk in chunks) + closing


def _frame(value: object) -> str:
    return f"data: {json.dumps(value)}\n\n"
