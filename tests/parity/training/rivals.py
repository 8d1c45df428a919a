"""A tiny LLaMA as TRL trains it and as we do: the same weights, the same adapter, the same rows."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from yearling.data.encoded import EncodedRow, EncodedSequence
from yearling.data.rows import RowId
from yearling.models.checkpoint import open_checkpoint
from yearling.models.torch_decoder import TorchDecoder, load_torch_decoder
from yearling.training.adapters import adapters
from yearling.training.batch import PackedBatch, pack_rows

VOCABULARY = 64
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_RANK, _ALPHA = 4, 8


def their_model(seed: int = 0) -> Any:
    """A random LLaMA of transformers, with logits that differ from token to token."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config)


def our_model(theirs: Any, folder: Path) -> TorchDecoder:
    """The same weights, read from the folder that transformers writes."""
    theirs.save_pretrained(folder)
    return load_torch_decoder(open_checkpoint(folder))


def their_tokenizer() -> Any:
    """Words t0 to t63; the last ones end a text and pad."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"t{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="t62", pad_token="t63", unk_token="t0"
    )


def their_adapter() -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=_RANK,
        lora_alpha=_ALPHA,
        lora_dropout=0.0,
        target_modules=list(TARGETS),
        task_type="CAUSAL_LM",
    )


def put_adapter(ours: TorchDecoder, theirs: Any) -> None:
    """Give our decoder an adapter; both sides the same random A and B, so that both learn."""
    kind = adapters.get("lora")
    kind.attach(ours, kind.config(r=_RANK, alpha=_ALPHA, targets=TARGETS), 0)
    generator = torch.Generator().manual_seed(5)
    own = trained(ours)
    rivals = {_plain(name): value for name, value in trained(theirs).items()}
    assert own.keys() == rivals.keys()
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
            rivals[name].copy_(value)


def trained(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def packed(ids: torch.Tensor, attention: torch.Tensor, learned: torch.Tensor) -> PackedBatch:
    """A padded batch of TRL's without its padding; each row is a sequence."""
    return pack_rows(
        [EncodedRow(RowId("rows", 1), (s,)) for s in unpadded(ids, attention, learned)]
    )


def unpadded(
    ids: torch.Tensor, attention: torch.Tensor, learned: torch.Tensor
) -> list[EncodedSequence]:
    sequences = []
    for row, is_there, has_loss in zip(ids, attention.bool(), learned.bool(), strict=True):
        mask = has_loss[is_there].numpy().copy()
        mask[0] = False
        sequences.append(EncodedSequence(row[is_there].numpy().astype(np.int32), mask))
    return sequences


def pairs(batch: Mapping[str, torch.Tensor]) -> PackedBatch:
    """TRL has all chosen answers first, then all rejected ones; ours stand by turns."""
    both = unpadded(batch["input_ids"], batch["attention_mask"], batch["completion_mask"])
    half = len(both) // 2
    rows = [(both[index], both[half + index]) for index in range(half)]
    return pack_rows([EncodedRow(RowId("rows", 1), pair) for pair in rows])


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """What was learned, by names without PEFT's prefix."""
    found = {}
    for name, value in trained(model).items():
        assert value.grad is not None, name
        found[_plain(name)] = value.grad
    return found


def worst_difference(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """Largest difference of any tensor, relative to the length of theirs."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


def words(ids: Sequence[int]) -> str:
    return " ".join(f"t{number}" for number in ids)


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.")
