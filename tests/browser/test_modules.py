"""The page's own modules, run in the browser they are written for."""

from playwright.sync_api import expect

from tests.browser.driving import ChatPage

EVENTS = 'data: {"a":1}\n\n: comment\ndata: zwölf 元年 🐎\ndata: two\n\ndata:[DONE]\n\ndata: cut'

READ_IN_TWO_PIECES = """async (module, text) => {
  const bytes = new TextEncoder().encode(text);
  const results = new Set();
  for (let cut = 0; cut <= bytes.length; cut += 1) {
    const stream = new ReadableStream({
      start(controller) {
        controller.enqueue(bytes.slice(0, cut));
        controller.enqueue(bytes.slice(cut));
        controller.close();
      },
    });
    const events = [];
    for await (const data of module.readEvents(stream)) events.push(data);
    results.add(JSON.stringify(events));
  }
  return [...results].map((text) => JSON.parse(text));
}"""


def test_events_are_the_same_wherever_the_bytes_are_cut(chat: ChatPage) -> None:
    for ending in ("\n", "\r\n", "\r"):
        text = EVENTS.replace("\n", ending)
        results = chat.evaluate_module("sse.js", READ_IN_TWO_PIECES, text)
        assert results == [['{"a":1}', "zwölf 元年 🐎\ntwo", "[DONE]"]], repr(ending)


DOCUMENT = """# Title

A paragraph with **bold**
and a second line.

- one

  still one
- two
  1. nested

Then:

1. first

2. second

10. tenth

| a | b |
|---|---|
| 1 | 2 |

```python
def f():

    return 1
```

$$
x^2
$$

Last."""

DRAW_GROWING_AND_WHOLE = """(module, text) => {
  const options = { isGrowing: false, labels: { copy: 'Copy', copied: 'Copied' } };
  const draw = (blocks) => {
    const box = document.createElement('div');
    blocks.forEach((block) => box.append(module.renderBlock(block, options)));
    return box.innerHTML;
  };
  const split = module.createBlockSplitter();
  let blocks = [];
  for (let end = 1; end <= text.length; end += 1) blocks = split(text.slice(0, end));
  return [draw(blocks), draw(module.createBlockSplitter()(text))];
}"""


def test_growing_text_ends_as_the_whole_text_does(chat: ChatPage) -> None:
    growing, whole = chat.evaluate_module("markdown.js", DRAW_GROWING_AND_WHOLE, DOCUMENT)
    assert growing == whole
    assert "<table>" in whole
    assert whole.count("<li>") == 6
    assert whole.count("<ol") == 2


def test_settled_blocks_are_neither_read_nor_drawn_again(chat: ChatPage) -> None:
    is_same = chat.evaluate_module(
        "markdown.js",
        """(module) => {
             const split = module.createBlockSplitter();
             const before = split('One.\\n\\nTwo.\\n\\nThree.\\n\\nFou');
             const after = split('One.\\n\\nTwo.\\n\\nThree.\\n\\nFour.');
             return before.map((block, index) => block === after[index]);
           }""",
    )
    assert is_same == [True, True, False, False]


def test_a_piece_of_a_long_answer_costs_far_less_than_the_whole(chat: ChatPage) -> None:
    growing, whole = chat.evaluate_module(
        "markdown.js",
        """(module) => {
             const paragraph = 'A paragraph has **bold** words and `code`, then it ends.\\n\\n';
             const text = paragraph.repeat(500);
             const split = module.createBlockSplitter();
             split(text);
             const start = performance.now();
             for (let piece = 0; piece < 100; piece += 1) split(text + 'word '.repeat(piece));
             const middle = performance.now();
             for (let piece = 0; piece < 10; piece += 1) module.createBlockSplitter()(text);
             return [middle - start, 10 * (performance.now() - middle)];
           }""",
    )
    assert growing < whole / 10, f"{growing} ms for 100 pieces, {whole} ms for 100 whole texts"


def test_code_is_coloured_and_copied(chat: ChatPage) -> None:
    chat.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    chat.answer_with('Here:\n\n```python\ndef f(x):\n    return "<b>"\n```\n')
    chat.ask("Code")
    expect(chat.page.locator(".code-block .hljs-keyword").first).to_have_text("def")
    expect(chat.page.locator(".code-block figcaption span")).to_have_text("python")
    button = chat.page.locator(".code-block button")
    button.click()
    expect(button).to_have_text("Copied")
    copied = chat.page.evaluate("navigator.clipboard.readText()")
    assert copied == 'def f(x):\n    return "<b>"\n'


def test_unknown_code_language_stays_plain(chat: ChatPage) -> None:
    chat.answer_with("```brainflow\n+ <b>x</b>\n```\n")
    chat.ask("Code")
    expect(chat.page.locator(".code-block code")).to_have_text("+ <b>x</b>\n")


def test_formulas_are_drawn_and_prices_are_not(chat: ChatPage) -> None:
    chat.answer_with(
        r"Energy is $E = mc^2$, or \(a_1\). Tea costs $4 and coffee $5.", "\n\n$$x$$\n"
    )
    chat.ask("Formula")
    expect(chat.page.locator(".katex")).to_have_count(3)
    expect(chat.page.locator(".katex-display")).to_have_count(1)
    expect(chat.answers.locator(".prose")).to_contain_text("Tea costs $4 and coffee $5.")
    chat.wait_for("() => document.fonts.check('16px KaTeX_Main')")


def test_conversation_tree_keeps_every_branch(chat: ChatPage) -> None:
    result = chat.evaluate_module(
        "conversation.js",
        """(tree) => {
             let chat = tree.createConversation('A title\\nand more');
             let question, answer, other;
             [chat, question] = tree.addNode(chat, tree.ROOT, { role: 'user', text: 'q' });
             [chat, answer] = tree.addNode(chat, question.id, { role: 'assistant', text: 'a' });
             [chat, other] = tree.addNode(chat, question.id, { role: 'assistant', text: '' });
             const shown = tree.shownPath(chat).at(-1) === other;
             const back = tree.chooseSibling(chat, other.id, -1);
             const beyond = tree.chooseSibling(back, answer.id, -1);
             return {
               title: chat.title,
               shown,
               back: tree.shownPath(back).map((node) => node.text),
               beyond: beyond === back,
               sent: tree.requestMessages(tree.shownPath(chat), ' be brief '),
               settled: tree.settle(chat).nodes[other.id].finish,
             };
           }""",
    )
    assert result == {
        "title": "A title",
        "shown": True,
        "back": ["q", "a"],
        "beyond": True,
        "sent": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "q"}],
        "settled": "stopped",
    }
