"""Tokenize and detokenize."""

import pytest

from tests.server.live import LiveServer


def test_text_comes_back(server: LiveServer) -> None:
    text = "héron <end> 元年"
    status, answer = server.json("/tokenize", {"model": "reciter", "prompt": text})
    assert status == 200
    assert answer["count"] == len(answer["tokens"])
    assert answer["max_model_len"] == 2048
    assert 256 in answer["tokens"], "raw prompts may hold control tokens"
    _, back = server.json("/detokenize", {"model": "reciter", "tokens": answer["tokens"]})
    assert back == {"prompt": text}


def test_token_texts_come_when_asked(server: LiveServer) -> None:
    body = {"model": "reciter", "prompt": "Hi", "return_token_strs": True}
    assert server.json("/tokenize", body)[1]["token_strs"] == ["H", "i"]


def test_conversation_is_rendered(server: LiveServer) -> None:
    body = {"model": "reciter", "messages": [{"role": "user", "content": "Hi"}]}
    with_turn = server.json("/tokenize", body)[1]["tokens"]
    without = server.json("/tokenize", body | {"add_generation_prompt": False})[1]["tokens"]
    assert with_turn == [*without, 257]


@pytest.mark.parametrize(
    ("path", "fields", "parameter"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "x", "messages": []}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/tokenize", {"text": "x"}, "text"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": [258]}, "tokens"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": ["x"]}, "tokens[0]"),
    ],
)
def test_wrong_request_is_refused(
    server: LiveServer, path: str, fields: dict, parameter: str
) -> None:
    status, answer = server.json(path, {"model": "reciter"} | fields)
    assert status == 400
    assert answer["error"]["param"] == parameter
