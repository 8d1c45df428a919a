"""Cost by length: what is counted, and that a stream and answers are what they say."""

from pathlib import Path

import pytest

from yearling.systems import length_costs, selection_tasks
from yearling.systems.length_costs import (
    exponent,
    kept_bytes,
    num_fitting,
    prefill_seconds,
    served,
    speed_of_answers,
    stream,
    write_folder,
)

SHARED = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2}
MAMBA = {**SHARED, "model_type": "mamba", "state_size": 4}
LLAMA = {
    **SHARED, "model_type": "llama", "intermediate_size": 24, "num_attention_heads": 2,
    "num_key_value_heads": 2, "max_position_embeddings": 2_048,
}  # fmt: skip


def folder(tmp_path: Path, config: dict[str, object]) -> Path:
    write_folder(selection_tasks.small_decoder(config, seed=0, std=0.2), tmp_path / "model")
    return tmp_path / "model"


def test_exponent_of_a_square_is_two_and_of_a_line_is_one() -> None:
    assert exponent([1, 2, 4, 8], [3, 12, 48, 192]) == pytest.approx(2)
    assert exponent([1, 2, 4, 8], [5, 10, 20, 40]) == pytest.approx(1)


def test_keys_and_values_grow_and_a_state_does_not() -> None:
    mamba = selection_tasks.small_decoder(MAMBA, seed=0, std=0.2)
    llama = selection_tasks.small_decoder(LLAMA, seed=0, std=0.2)
    assert kept_bytes(mamba, 10) == kept_bytes(mamba, 10_000) == 4 * 2 * 32 * (4 + 3)
    assert kept_bytes(llama, 10) == 4 * 2 * 2 * 16 * 10


def test_fewer_sequences_with_keys_fit_than_states(tmp_path: Path) -> None:
    for config, expected in ((LLAMA, 3), (MAMBA, 8)):
        path = folder(tmp_path / str(config["model_type"]), config)
        cache_bytes = 3 * 4 * 2 * 2 * 16 * 512 + 4_096
        with served(path, context=1_024, cache_bytes=cache_bytes, max_sequences=8) as executor:
            assert num_fitting(executor, 512) == expected


@pytest.mark.parametrize("config", [MAMBA, LLAMA], ids=["mamba", "attention"])
def test_answers_are_timed_while_all_sequences_run(
    tmp_path: Path, config: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps take a second each, so that as many tokens come as sequences run."""
    clock = iter(range(10_000))
    monkeypatch.setattr(length_costs, "process_time", lambda: next(clock))
    with served(
        folder(tmp_path, config), context=2_048, cache_bytes=1 << 22, max_sequences=8
    ) as executor:
        assert speed_of_answers(executor, [[1] * 700, [2] * 900, [3] * 600], 5) == 3


def test_stream_ends_in_what_the_same_prompt_is_answered_by(tmp_path: Path) -> None:
    prompt = [place * place % 50 for place in range(12_000)]
    with served(
        folder(tmp_path, MAMBA), context=12_001, cache_bytes=1 << 20, max_sequences=1
    ) as executor:
        streamed = stream(executor, prompt)
        assert streamed.answer == executor.logits(prompt)[-1].argmax()
    assert streamed.tokens_per_second > 0
    assert streamed.growth_mb < 5


def test_reading_takes_time_for_every_length() -> None:
    decoder = selection_tasks.small_decoder(MAMBA, seed=0, std=0.2)
    short, long = prefill_seconds(decoder, (8, 4_096), 1)
    assert 0 < short < long
