"""Writes gemma3.json: texts in English, Chinese and stranger ones, and llama.cpp's ids of them.

Run once in an environment with `xllamacpp`, with the path of the GGUF file of gemma3-270m; the
tests only read the result.
"""

import json
import random
import sys
import urllib.request
from pathlib import Path

import xllamacpp

_ENGLISH = [
    "The quick brown fox jumps over the lazy dog.",
    "It's what we've always wanted, isn't it?",
    "In 1969, 3 men flew 384,400 km to the Moon.",
    "def f(x):\n    return x ** 2  # square\n\n\nprint(f(12345))",
    "Pi is 3.14159265358979, e is 2.71828.",
    "<h1>Title</h1><table><tr><td>1</td></tr></table>",
    "Dear Sir,\n\nI write to you about\tyour  letter   of 12/03/2023.\r\n\r\nYours",
    "email: a.b@example.com, https://example.com/?q=1&x=%20",
    "naïve café résumé Zürich Ærøskøbing",
    "WHY ARE YOU SHOUTING AT ME???!!!",
    '{"a": [1, 2, {"b": null}]}',
    "x_1 = y_2 + z_3; // comment",
    "one two  three   four    five     six",
    "\n\n\n\nfour newlines",
    "tabs\t\t\tand\t spaces \t",
    "Trailing spaces     ",
    "     Leading spaces",
]
_CHINESE = [
    "今天天气很好，我们去公园散步吧。",
    "中华人民共和国成立于1949年10月1日。",
    "人工智能正在改变世界。",
    "你好，世界！",
    "他说：“学而时习之，不亦说乎？”",
    "北京市海淀区中关村大街27号，邮编100080",
    "價格是１２３４５元（約合USD 1,700）。",
    "我买了3个苹果、2斤香蕉，一共花了45.6元。",
    "　　全角空格开头的段落。",
    "龘靐齉爩",
    "𠀀𠮷野家",
    "第一行\n第二行\n\n第四行",
    "中英mixed文本with spaces 和 数字123混排",
    "日本語のテスト、한국어 시험",
    "天地玄黄 宇宙洪荒  日月盈昃   辰宿列张",
]
_ODD = [
    " ",
    "  ",
    "\n",
    "\t",
    "\r\n",
    " \n \n ",
    "a\u00a0b\u2003c\u3000d\u200be",
    "\u2581",
    "a\u2581b \u2581 c",
    " " * 40 + "x",
    "\n" * 40 + "y",
    "0123456789" * 5,
    "x" * 100,
    "\0\x01\x7f",
    "😀👩\u200d👩\u200d👧🏳️\u200d🌈",
    "e\u0301 n\u0303",
    "Привет, мир! שלום مرحبا नमस्ते ไทย",
    "\ufeffbom",
    "<bos>not<eos>special<start_of_turn>",
    "[multimodal] <unused5> <mask>",
    "<0x0A> <0xff>",
    "1234567 3.14 1,000 0x1F 1e-10",
    "²½Ⅷ①٣٤٥",
    "\u0e33\u0378\U000e0001",
    "<b>bold</b><br/>\n<ul><li>",
    "!!!???...___---",
    "  \n  \t  \n",
    "a  1 and   22",
]


def main() -> None:
    """Ask a server of llama.cpp for the ids of every text."""
    parameters = xllamacpp.CommonParams()
    parameters.model.path = sys.argv[1]
    parameters.n_ctx = 256
    parameters.warmup = False
    server = xllamacpp.Server(parameters)
    cases = [[text, _ids(server.listening_address, text)] for text in _texts()]
    content = json.dumps(cases, ensure_ascii=False, separators=(",", ":"))
    content = content.replace('],["', '],\n["')
    Path(__file__).with_name("gemma3.json").write_text(content + "\n", encoding="utf-8")


def _texts() -> list[str]:
    """The texts above, mixtures of their words, and mixtures of their characters."""
    generator = random.Random(3)
    texts = [*_ENGLISH, *_CHINESE, *_ODD]
    characters = "".join(texts)
    words = " ".join([*_ENGLISH, *_CHINESE]).split(" ")
    gaps = [" ", "  ", "\n", "\n\n", "\t", "", "", "，", " "]
    while len(texts) < 130:
        count = generator.randint(2, 14)
        picked = [generator.choice(gaps) + generator.choice(words) for _ in range(count)]
        texts.append("".join(picked))
    while len(texts) < 220:
        count = generator.randint(1, 60)
        texts.append("".join(generator.choice(characters) for _ in range(count)))
    return texts


def _ids(address: str, text: str) -> list[int]:
    question = {"content": text, "add_special": False, "parse_special": False}
    request = urllib.request.Request(
        f"{address}/tokenize", json.dumps(question).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        ids: list[int] = json.load(response)["tokens"]
    return ids


if __name__ == "__main__":
    main()
