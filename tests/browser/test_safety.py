"""Nothing that a model or a user writes can run, load, or pose as a part of the page."""

import urllib.request

from playwright.sync_api import expect

from tests.browser.driving import COMPLETIONS, ChatPage

ATTACKS = {
    "script": "<script>alert(1)</script>",
    "handler": '<img src="x" onerror="alert(1)">',
    "vector": "<svg><animate onbegin=alert(1) attributeName=x></svg>",
    "frame": '<iframe srcdoc="<script>parent.alert(1)</script>"></iframe>',
    "link": "[click me](javascript:alert(1))",
    "hidden link": "[click me](java&#x09;script:alert(1))",
    "data link": "[click me](data:text/html,<script>alert(1)</script>)",
    "automatic link": "<javascript:alert(1)>",
    "image link": '![x](javascript:alert(1)) ![y](x" onerror="alert(1))',
    "style": "<style>body{display:none}</style><b style='position:fixed'>over</b>",
    "form": '<form action="https://example.org"><button>Send</button></form>',
    "code": "```<img src=x onerror=alert(1)>\n<img src=x onerror=alert(1)>\n```",
    "math": r"$\href{javascript:alert(1)}{x}$ $\htmlData{a=1}{x}$",
    "table": "|a|\n|-|\n|<img src=x onerror=alert(1)>|",
    "mutation": '<math><mtext><table><mglyph><style><img src=x onerror="alert(1)">',
    "unclosed": '<b onclick="alert(1)" class="composer',
}


def test_text_is_inert(chat: ChatPage) -> None:
    for text in ATTACKS.values():
        chat.page.unroute(COMPLETIONS)
        chat.answer_with(text)
        chat.ask(text)
    content = chat.page.locator(".column")
    assert content.locator("script, iframe, style, form, object, embed").count() == 0
    hostile = content.evaluate(
        """box => [...box.querySelectorAll('*')].flatMap(e => [...e.attributes].filter(
             a => a.name.startsWith('on') || /^\\s*(javascript|data:text)/i.test(a.value)
           ).map(a => `${e.tagName} ${a.name}=${a.value}`))"""
    )
    assert hostile == []
    for link in chat.answers.locator(".prose a").all():
        link.dispatch_event("click")
    assert chat.page.evaluate("window.sawAttack") is False
    chat.page.evaluate("alert(1)")
    assert chat.page.evaluate("window.sawAttack") is True, "the alarm itself must work"


def test_raw_html_is_shown_as_it_was_written(chat: ChatPage) -> None:
    chat.answer_with("Write <div class='x'>text</div> and x<sup>2</sup>.")
    chat.ask("HTML?")
    expect(chat.answers.locator(".prose")).to_contain_text("Write <div class='x'>text</div>")
    expect(chat.answers.locator("sup")).to_have_text("2")


def test_remote_image_becomes_a_link_that_loads_nothing(chat: ChatPage) -> None:
    pixel = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
    chat.answer_with(f"![a cat](https://example.org/cat.png) ![own]({pixel})")
    chat.ask("A picture, please.")
    link = chat.answers.get_by_role("link", name="a cat (https://example.org/cat.png)")
    expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
    expect(link).to_have_attribute("target", "_blank")
    expect(chat.answers.locator("img")).to_have_attribute("src", pixel)


def test_sanitiser_alone_would_hold(chat: ChatPage) -> None:
    chat.expected_errors = "Content Security Policy"  # the second fence, seen at work
    left = chat.evaluate_module(
        "sanitise.js",
        """(module, attacks) => attacks.map(html => {
             const box = document.createElement('div');
             box.append(module.sanitise(html));
             return box.innerHTML;
           })""",
        [*ATTACKS.values(), '<p class="composer" id="app" data-x="1" aria-label="x">text</p>'],
    )
    assert left[-1] == "<p>text</p>"
    joined = "".join(left).lower()
    assert "<script" not in joined
    assert "onerror=" not in joined.replace("```<img", "").replace('(x" onerror=', "")
    assert "<style" not in joined


def test_policy_forbids_other_hosts_and_inline_scripts(server_url: str) -> None:
    with urllib.request.urlopen(server_url) as response:
        policy = response.headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'self'"
    assert "script-src" not in rules
    assert "http" not in policy
    assert "unsafe" not in policy
    assert rules["object-src"] == "'none'"
    assert rules["base-uri"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
