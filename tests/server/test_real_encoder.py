"""`yearling serve --model minilm`, through the stock client."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import openai
import pytest

from tests.server.live import LiveServer, started

pytestmark = pytest.mark.slow

TEXTS = ["A cat sleeps on the sofa.", "The kitten naps on a couch.", "Interest rates rose again."]


@pytest.fixture(scope="module")
def server(minilm_path: Path) -> Iterator[LiveServer]:
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0"]
    command += ["--model", str(minilm_path), "--served-model-name", "minilm"]
    with started(command, seconds=60) as live:
        yield live


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client:
        yield client


def vectors(client: openai.OpenAI, texts: list[str], **options: int) -> "np.typing.NDArray":
    answer = client.embeddings.create(model="minilm", input=texts, **options)
    return np.array([entry.embedding for entry in answer.data], np.float32)


def test_like_texts_have_like_vectors(client: openai.OpenAI) -> None:
    found = vectors(client, TEXTS)
    assert found.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, rtol=1e-5)
    cosines = found @ found.T
    assert cosines[0, 1] > 0.5 > 0.2 > cosines[0, 2]


def test_vectors_are_those_of_the_python_api(client: openai.OpenAI, minilm_path: Path) -> None:
    from yearling import LLM

    with LLM(minilm_path) as llm:
        ours = llm.embed(TEXTS)
    np.testing.assert_array_equal(vectors(client, TEXTS), ours)


def test_vectors_do_not_depend_on_company(client: openai.OpenAI) -> None:
    alone = vectors(client, TEXTS)
    lists = [[*TEXTS, "More. " * number] for number in range(1, 9)]
    together: list[object] = [None] * len(lists)

    def ask_into(index: int) -> None:
        together[index] = vectors(client, lists[index])[:3]

    threads = [threading.Thread(target=ask_into, args=(index,)) for index in range(len(lists))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for found in together:
        np.testing.assert_array_equal(found, alone)


def test_ids_of_tokenize_give_the_vector_of_the_text(
    server: LiveServer, client: openai.OpenAI
) -> None:
    tokens = server.json("/tokenize", {"model": "minilm", "prompt": TEXTS[0]})[1]["tokens"]
    assert (tokens[0], tokens[-1]) == (101, 102)  # [CLS] and [SEP]
    answer = client.embeddings.create(model="minilm", input=tokens)
    assert answer.usage.prompt_tokens == len(tokens)
    np.testing.assert_array_equal(answer.data[0].embedding, vectors(client, TEXTS[:1])[0])


def test_fewer_dimensions_are_the_first_ones(client: openai.OpenAI) -> None:
    whole, cut = vectors(client, TEXTS), vectors(client, TEXTS, dimensions=64)
    expected = whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True)
    np.testing.assert_allclose(cut, expected, rtol=1e-5)


def test_long_text_is_refused_and_not_cut(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] has 302 tokens.*takes 256"):
        client.embeddings.create(model="minilm", input=["fine", "a " * 300])


def test_chat_is_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="minilm is an encoder"):
        client.chat.completions.create(model="minilm", messages=[{"role": "user", "content": "Hi"}])
