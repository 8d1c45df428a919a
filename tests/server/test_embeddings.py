"""Embeddings through the stock client, beside a model that generates."""

import base64
import json
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from tests.server.fake_model import ENCODER_CONTEXT, served_encoder, served_model
from tests.server.live import LiveServer, running_server
from tests.serving.fake_embedder import WIDTH, vector_of
from yearling.server.config import ServerConfig
from yearling.server.limits import Limits

BEGIN, END = 257, 256


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with running_server(models=[served_model(), served_encoder()]) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client:
        yield client


def expected(text: str) -> list[float]:
    return vector_of([BEGIN, *text.encode(), END])


def test_every_form_of_input_is_answered_in_order(client: openai.OpenAI) -> None:
    forms = {
        "text": ("Hi", [expected("Hi")]),
        "texts": (["Hi", "héron", "A"], [expected("Hi"), expected("héron"), expected("A")]),
        "ids": ([72, 105], [vector_of([72, 105])]),
        "lists of ids": ([[72], [105, 5]], [vector_of([72]), vector_of([105, 5])]),
    }
    for given, vectors in forms.values():
        answer = client.embeddings.create(model="encoder", input=given)
        assert (answer.object, answer.model) == ("list", "encoder")
        assert [entry.index for entry in answer.data] == list(range(len(vectors)))
        assert [entry.embedding for entry in answer.data] == vectors


def test_text_gets_special_tokens_around_it_and_none_inside(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="encoder", input="a<end>b")
    assert answer.data[0].embedding == expected("a<end>b")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == len("a<end>b") + 2


def test_both_formats_hold_the_same_numbers(server: LiveServer) -> None:
    body = {"model": "encoder", "input": ["one", "three"]}
    plain = server.json("/v1/embeddings", body)[1]["data"]
    assert plain == server.json("/v1/embeddings", body | {"encoding_format": "float"})[1]["data"]
    packed = server.json("/v1/embeddings", body | {"encoding_format": "base64"})[1]["data"]
    for numbers, text in zip(plain, packed, strict=True):
        decoded = np.frombuffer(base64.b64decode(text["embedding"]), "<f4")
        assert decoded.tolist() == numbers["embedding"]


def test_dimensions_cut_and_bring_back_to_length_one(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="encoder", input="Hi", dimensions=2)
    cut = np.array(expected("Hi")[:2])
    np.testing.assert_allclose(answer.data[0].embedding, cut / np.linalg.norm(cut), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "parameter", "message"),
    [
        ({"dimensions": WIDTH + 1}, "dimensions", "dimensions is 5, but"),
        ({"input": "x" * (ENCODER_CONTEXT - 1)}, "input", "input has 65 tokens"),
        (
            {"input": ["ok", "x" * ENCODER_CONTEXT]},
            "input[1]",
            r"input\[1\] has 66 tokens, special ones included, but encoder takes 64",
        ),
        ({"input": [[1], [1] * 65]}, "input[1]", r"input\[1\] has 65 tokens"),
        ({"input": ["x" * 20_000]}, "input", "holds 20000 bytes of text"),
        ({"input": [258]}, "input", "input holds token id 258"),
        ({"input": [[5], [258]]}, "input[1]", r"input\[1\] holds token id 258"),
        ({"truncate": True}, "truncate", "is not a field of this request"),
        ({"model": "reciter"}, "model", "generates text and gives no vectors.*--model minilm"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_wrong_request_is_refused_by_name(
    client: openai.OpenAI, fields: dict, parameter: str, message: str
) -> None:
    body = {"model": "encoder", "input": "Hi"} | fields
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.post("/embeddings", body=body, cast_to=dict)
    assert caught.value.param == parameter


def test_encoder_generates_nothing(client: openai.OpenAI) -> None:
    message = "encoder is an encoder: it turns texts into vectors, at /v1/embeddings"
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.chat.completions.create(
            model="encoder", messages=[{"role": "user", "content": "Hi"}]
        )
    assert caught.value.param == "model"
    with pytest.raises(openai.BadRequestError, match=message):
        client.completions.create(model="encoder", prompt="Hi")


def test_tokenize_shows_what_an_encoder_reads(server: LiveServer) -> None:
    body = {"model": "encoder", "prompt": "Hi"}
    assert server.json("/tokenize", body)[1]["tokens"] == [BEGIN, 72, 105, END]
    body["add_special_tokens"] = False  # type: ignore[assignment]
    assert server.json("/tokenize", body)[1]["tokens"] == [72, 105]


def test_token_limit_of_a_request_is_kept() -> None:
    config = ServerConfig(port=0, limits=Limits(input_tokens=10))
    with running_server(config, [served_encoder(config.limits)]) as live:
        body = {"model": "encoder", "input": [[1] * 4, [1] * 6]}
        assert live.json("/v1/embeddings", body)[0] == 200
        status, answer = live.json("/v1/embeddings", body | {"input": [[1] * 4, [1] * 7]})
        assert status == 400
        assert answer["error"]["param"] == "input[1]"


def test_broken_vector_is_an_error_and_never_numbers() -> None:
    with running_server(models=[served_encoder(bad_token=66)]) as live:
        status, answer = live.json("/v1/embeddings", {"model": "encoder", "input": ["A", "B"]})
        assert (status, answer["error"]["type"]) == (500, "server_error")
        assert live.json("/v1/embeddings", {"model": "encoder", "input": "A"})[0] == 200


def test_metrics_count_texts_and_tokens() -> None:
    with running_server(models=[served_encoder()]) as live:
        live.json("/v1/embeddings", {"model": "encoder", "input": ["A", "BC"], "user": "me"})
        assert live.metric("yearling_embedded_inputs_total") == 2
        assert live.metric("yearling_prompt_tokens_total") == 7
        assert live.metric("yearling_requests_total") == 1
        assert live.metric("yearling_running_requests") == 0


def test_answer_is_json_that_a_strict_reader_takes(server: LiveServer) -> None:
    body = json.dumps({"model": "encoder", "input": "Hi"}).encode()
    status, headers, content = server.request("POST", "/v1/embeddings", body)
    assert (status, headers["content-type"]) == (200, "application/json")
    assert set(json.loads(content)) == {"object", "data", "model", "usage"}
