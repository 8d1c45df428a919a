"""Losses, rewards and gradients equal TRL's and PEFT's on the same rows and weights."""

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.parity.training.rivals import (
    gradients,
    our_model,
    packed,
    pairs,
    put_adapter,
    their_adapter,
    their_model,
    their_tokenizer,
    words,
    worst_difference,
)
from yearling.models.torch_decoder import TorchDecoder
from yearling.training.adapters import adapters
from yearling.training.batch import PackedBatch
from yearling.training.method import Start, methods
from yearling.training.objective import Loss

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]

_TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _settings(folder: Path) -> dict[str, Any]:
    os.environ["WANDB_DISABLED"] = "true"
    return {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "report_to": "none",
        "max_length": None,
        "gradient_checkpointing": False,
        "bf16": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _sft_trainer(model: Any, folder: Path, adapter: Any = None) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    random = np.random.default_rng(3)
    rows = []
    for prompt, answer in ((5, 4), (3, 9), (8, 2), (1, 6)):
        ids = random.integers(0, 60, prompt + answer).tolist()
        rows.append({"input_ids": ids, "completion_mask": [0] * prompt + [1] * answer})
    return SFTTrainer(
        model=model,
        args=SFTConfig(**_settings(folder), completion_only_loss=True),
        train_dataset=Dataset.from_list(rows),
        processing_class=their_tokenizer(),
        peft_config=adapter,
    )


def _dpo_trainer(model: Any, folder: Path, adapter: Any = None) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    random = np.random.default_rng(4)
    rows = []
    for prompt, better, worse in ((5, 4, 7), (3, 9, 2), (8, 2, 2), (1, 6, 3)):
        ids = random.integers(0, 60, prompt + better + worse).tolist()
        chosen, rejected = ids[prompt : prompt + better], ids[prompt + better :]
        row = {"prompt": ids[:prompt], "chosen": chosen, "rejected": rejected}
        rows.append({key: " " * (key != "prompt") + words(part) for key, part in row.items()})
    for row in rows:  # TRL puts its end token there, without a space before it
        row["chosen"] += " t62"
        row["rejected"] += " t62"
    return DPOTrainer(
        model=model,
        ref_model=copy.deepcopy(model) if adapter is None else None,
        args=DPOConfig(**_settings(folder), beta=0.2),
        train_dataset=Dataset.from_list(rows),
        processing_class=their_tokenizer(),
        peft_config=adapter,
    )


def _their_loss(trainer: Any) -> tuple[dict[str, torch.Tensor], float]:
    """TRL's batch, and the loss it goes back from."""
    trainer.model.train()
    batch = next(iter(trainer.get_train_dataloader()))
    given = dict(batch)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    return given, loss.item()


def _our_loss(
    name: str, model: TorchDecoder, batch: PackedBatch, reference: Any = None, **options: Any
) -> tuple[Loss, float]:
    """Our loss as the loop has it, divided by the units of the step."""
    method = methods.get(name)
    frozen = copy.deepcopy(model).requires_grad_(False)

    @contextmanager
    def copied() -> Iterator[TorchDecoder]:
        yield frozen

    objective = method.objective(method.config(**options), Start(model, reference or copied, 0))
    (update,) = objective.updates
    result = update.loss(batch)
    loss = result.total / update.weight(batch)
    loss.backward()
    return result, loss.item()


def _sft_batch(batch: dict[str, torch.Tensor], *, is_masked: bool = True) -> PackedBatch:
    learned = batch["labels"] != -100 if is_masked else torch.ones_like(batch["labels"])
    return packed(batch["input_ids"], batch["attention_mask"], learned)


def test_sft_loss_and_all_gradients_equal_trls(tmp_path: Path) -> None:
    theirs = their_model()
    ours = our_model(theirs, tmp_path / "model")
    trainer = _sft_trainer(theirs, tmp_path)
    batch, expected = _their_loss(trainer)
    assert 0 in batch["attention_mask"]  # theirs is padded
    _, loss = _our_loss("sft", ours, _sft_batch(batch))
    assert loss == pytest.approx(expected, abs=_TOLERANCE)
    assert worst_difference(gradients(ours), gradients(trainer.model)) < _TOLERANCE


def test_sft_gradients_of_an_adapter_equal_pefts_and_see_the_mask(tmp_path: Path) -> None:
    theirs = their_model()
    ours = our_model(theirs, tmp_path / "model")
    trainer = _sft_trainer(theirs, tmp_path, their_adapter())
    put_adapter(ours, trainer.model)
    batch, expected = _their_loss(trainer)
    _, loss = _our_loss("sft", ours, _sft_batch(batch))
    assert loss == pytest.approx(expected, abs=_TOLERANCE)
    assert worst_difference(gradients(ours), gradients(trainer.model)) < _TOLERANCE

    ours.zero_grad()
    _, unmasked = _our_loss("sft", ours, _sft_batch(batch, is_masked=False))
    assert abs(unmasked - expected) > 1000 * _TOLERANCE
    assert worst_difference(gradients(ours), gradients(trainer.model)) > 0.1


def test_dpo_loss_rewards_and_gradients_equal_trls(tmp_path: Path) -> None:
    theirs = their_model()
    ours = our_model(theirs, tmp_path / "model")
    trainer = _dpo_trainer(theirs, tmp_path, their_adapter())
    put_adapter(ours, trainer.model)
    kind = adapters.get("lora")

    @contextmanager
    def without_adapter() -> Iterator[TorchDecoder]:
        with kind.disabled(ours):
            yield ours

    batch, expected = _their_loss(trainer)
    result, loss = _our_loss("dpo", ours, pairs(batch), without_adapter, beta=0.2)
    assert loss == pytest.approx(expected, abs=_TOLERANCE)
    metrics = trainer._metrics["train"]
    for name, rival in (
        ("reward_chosen", "rewards/chosen"),
        ("reward_rejected", "rewards/rejected"),
        ("accuracy", "rewards/accuracies"),
        ("margin", "rewards/margins"),
    ):
        assert result.metrics[name] / 4 == pytest.approx(metrics[rival][-1], abs=_TOLERANCE), name
    assert worst_difference(gradients(ours), gradients(trainer.model)) < _TOLERANCE

    ours.zero_grad()  # without a reference: the policy is measured against itself

    @contextmanager
    def itself() -> Iterator[TorchDecoder]:
        yield ours

    _, without = _our_loss("dpo", ours, pairs(batch), itself, beta=0.2)
    assert abs(without - expected) > 100 * _TOLERANCE
    assert worst_difference(gradients(ours), gradients(trainer.model)) > 100 * _TOLERANCE


def test_dpo_of_all_weights_equals_trls_with_a_frozen_copy(tmp_path: Path) -> None:
    theirs = their_model()
    ours = our_model(theirs, tmp_path / "model")
    trainer = _dpo_trainer(theirs, tmp_path)
    batch, expected = _their_loss(trainer)
    _, loss = _our_loss("dpo", ours, pairs(batch), beta=0.2)
    assert loss == pytest.approx(expected, abs=_TOLERANCE)
    assert worst_difference(gradients(ours), gradients(trainer.model)) < 3 * _TOLERANCE
