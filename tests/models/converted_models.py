"""Tiny models as folders with a tokenizer and a template, as somebody else would publish them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from yearling.models.families import family_of_model_type
from yearling.models.fields import Fields
from yearling.models.places import hugging_face_places

TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXTS = (
    "Hello, world! It's 12345 and 3.14",
    "  two  spaces\n\n\ttab, na\u00efve \u4f60\u597d \U0001f642",
    "<|im_start|>user\nhi<|im_end|>\n",
    "",
)
_CORPUS = ["the quick brown fox jumps over the lazy dog, it's 2023 and 12345 foxes jump"] * 4
_DIGITS = {"type": "Digits", "individual_digits": True}
BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
BFLOAT16 = 0xFFFF0000
SMOLLM_SPLIT = {"type": "Sequence", "pretokenizers": [_DIGITS, BYTE_LEVEL]}


def llama_folder(folder: Path, **changes: Any) -> Path:
    """A LLaMA of 2 layers with random weights and no tokenizer."""
    settings: dict[str, Any] = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 320,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
        **changes,
    }
    return model_folder(folder, settings)


def model_folder(folder: Path, settings: Mapping[str, Any], bits: int = 0xFFFFFFFF) -> Path:
    """A model of any family with random weights and no tokenizer.

    Mamba's state matrix is what it starts from: logarithms of whole numbers.

    Args:
        bits: Which bits of float32 numbers are kept; `BFLOAT16` are those of published models.
    """
    family = family_of_model_type(settings["model_type"])
    spec = family.spec_from_config(Fields(settings, "config.json"))
    random = np.random.default_rng(0)
    tensors = {}
    for weight, place in hugging_face_places(spec, family.names(spec)).items():
        values = random.standard_normal(place.shape, np.float32)
        is_norm = len(place.shape) == 1 and weight.part == "weight"
        values = values * np.float32(0.1) + 1 if is_norm else values * np.float32(0.05)
        if weight.role == "state_matrix":
            tensors[place.name] = np.log(np.broadcast_to(np.arange(1, 9, dtype="f4"), place.shape))
        else:
            tensors[place.name] = (values.view(np.uint32) & np.uint32(bits)).view(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(settings)))
    return folder


def add_byte_level_tokenizer(folder: Path, split: dict[str, Any] = SMOLLM_SPLIT) -> None:
    """A byte-level BPE with ChatML's tokens and a template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=310,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    content = json.loads(tokenizer.to_str()) | {"pre_tokenizer": split}
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    _write(folder, content, config | {"chat_template": TEMPLATE})


def add_sentencepiece_tokenizer(folder: Path) -> None:
    """A LLaMA-2-like BPE: pieces with U+2581 for a space, byte tokens, BOS before a text."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = ["\u2581", *"helowrdti s,."]
    merged = ["he", "ll", "\u2581t", "lo", "hell", "\u2581the", "hello", "\u2581hello", "wo", "rl"]
    pairs = [("h", "e"), ("l", "l"), ("\u2581", "t"), ("l", "o"), ("he", "ll"), ("\u2581t", "he")]
    pairs += [("hell", "o"), ("\u2581", "hello"), ("w", "o"), ("r", "l")]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *letters, *merged])}
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    back = {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    text, bos = (
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "<s>", "type_id": 0}},
    )
    content = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": pieces[i], **off, "special": True} for i in range(3)],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [bos, text],
            "pair": [bos, text],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
        },
        "model": {
            "type": "BPE",
            "vocab": vocabulary,
            "merges": [list(pair) for pair in pairs],
            "unk_token": "<unk>",
            "byte_fallback": True,
            "fuse_unk": True,
        },
    }
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    _write(folder, content, config)


def _write(folder: Path, tokenizer: Any, config: dict[str, Any]) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **config}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
