"""Embeddings: request bodies in, vectors out."""

import base64

import numpy as np
import pytest

from yearling.core.errors import RequestError
from yearling.server.limits import Limits
from yearling.wire.openai.embeddings import (
    check_dimensions,
    embedding_list,
    parse_embeddings_request,
    shorten,
)

LIMITS = Limits().for_requests()
BODY = {"model": "m", "input": "Once"}


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_input_takes_all_forms(given: object, inputs: tuple) -> None:
    assert parse_embeddings_request(BODY | {"input": given}, LIMITS).inputs == inputs


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ([], "input"),
        ({}, "input"),
        ("", "input"),
        ([""], "input"),
        (["a", ""], "input[1]"),
        ([[]], "input[0]"),
        ([[1], [True]], "input[1][0]"),
        ([-1], "input[0]"),
        ([1.5], "input[0]"),
        (["a"] * 2049, "input"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_wrong_input_is_refused_with_its_place(given: object, place: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_embeddings_request(BODY | {"input": given}, LIMITS)
    assert caught.value.parameter == place


def test_encoding_format_is_one_of_two() -> None:
    assert not parse_embeddings_request(BODY, LIMITS).is_base64
    assert parse_embeddings_request(BODY | {"encoding_format": "base64"}, LIMITS).is_base64
    with pytest.raises(RequestError, match="encoding_format is 'int8'"):
        parse_embeddings_request(BODY | {"encoding_format": "int8"}, LIMITS)


def test_dimensions_are_at_least_one_and_at_most_the_models() -> None:
    with pytest.raises(RequestError, match="dimensions is 0"):
        parse_embeddings_request(BODY | {"dimensions": 0}, LIMITS)
    check_dimensions(384, 384)
    check_dimensions(None, 384)
    with pytest.raises(RequestError, match="dimensions is 385, but this model's vectors have 384"):
        check_dimensions(385, 384)


def test_shortened_vectors_keep_their_direction_and_have_length_one() -> None:
    vectors = np.array([[3, 4, 5, 6], [0, 0, 1, 2]], np.float32)
    np.testing.assert_allclose(shorten(vectors, 2), [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert shorten(vectors, 4) is vectors
    assert shorten(vectors, None) is vectors


def test_list_holds_numbers_or_base64_of_them() -> None:
    vectors = np.array([[0.5, -0.25], [1.0, 0.0]], np.float32)
    plain = embedding_list("m", vectors, num_tokens=7, is_base64=False)
    assert [entry["embedding"] for entry in plain["data"]] == [[0.5, -0.25], [1.0, 0.0]]
    assert [entry["index"] for entry in plain["data"]] == [0, 1]
    assert plain["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    packed = embedding_list("m", vectors, num_tokens=7, is_base64=True)
    raw = [base64.b64decode(entry["embedding"]) for entry in packed["data"]]
    assert raw == [vector.tobytes() for vector in vectors]
