"""The decoder in PyTorch: Hugging Face's names and numbers, packed rows, gradients, losses."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.models.tiny_files import tiny_gguf, write_folder
from tests.models.torch_variants import (
    EXPERTS,
    FAMILY,
    GATED,
    VARIANTS,
    attending,
    decoder,
    model,
    rotating,
)
from yearling.core.errors import UnsupportedError
from yearling.kernels import ops, reference_operations
from yearling.models.checkpoint import open_checkpoint
from yearling.models.families import families
from yearling.models.spec import Embedding, Experts, Head, Plain, Pooling, Rotary, RotaryScaling
from yearling.models.torch_decoder import (
    NO_LABEL,
    Injection,
    Segments,
    TorchDecoder,
    initialise,
    labelled_losses,
    load_torch_decoder,
)
from yearling.models.torch_decoder.mlp import choose_experts
from yearling.models.torch_decoder.rotary import angles_of
from yearling.models.torch_decoder.segments import positions_of
from yearling.models.torch_decoder.state_space import selective_scan

pytestmark = pytest.mark.slow

SIZES = {"vocab_size": 97, "eos_token_id": 2, "bos_token_id": 1}
LLAMA = {
    "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
NEOX = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
THEIRS = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "gpt2, transposed": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt_neox, fused by heads": ("GPTNeoXForCausalLM", "GPTNeoXConfig", NEOX),
    "mamba, bare parameters": ("MambaForCausalLM", "MambaConfig", MAMBA),
}


@pytest.fixture(params=THEIRS)
def saved(request, tmp_path):
    """A random model of transformers' class, and the folder it was saved to."""
    import transformers

    kind, config, sizes = THEIRS[request.param]
    torch.manual_seed(7)
    theirs = getattr(transformers, kind)(getattr(transformers, config)(**SIZES, **sizes)).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.08)
    theirs.save_pretrained(tmp_path / "model")
    return theirs, tmp_path / "model"


def ids(length: int, *, vocabulary: int = 50, seed: int = 1) -> torch.Tensor:
    return torch.randint(vocabulary, (length,), generator=torch.Generator().manual_seed(seed))


def logits(model: TorchDecoder, tokens: torch.Tensor, segments: Segments) -> torch.Tensor:
    return model.logits(model(tokens, segments))


# ---- Hugging Face's side -----------------------------------------------------------------


def test_state_dict_and_logits_equal_transformers(saved) -> None:
    from safetensors.torch import load_file

    theirs, folder = saved
    ours = load_torch_decoder(open_checkpoint(folder))
    wanted, mine = load_file(folder / "model.safetensors"), ours.state_dict()
    assert set(mine) == set(wanted)
    assert all(torch.equal(mine[name], value) for name, value in wanted.items())
    tokens = ids(40, vocabulary=97)
    with torch.no_grad():
        expected = theirs(tokens[None]).logits[0]
        torch.testing.assert_close(
            logits(ours, tokens, Segments([40])), expected, atol=1e-5, rtol=0
        )


def test_loading_gguf_equals_loading_its_values(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_gguf())
    checkpoint = open_checkpoint(path)
    ours = load_torch_decoder(checkpoint)
    # GGUF keeps the rows of a head's two halves interleaved.
    stored = np.random.default_rng(7)
    embedding = stored.standard_normal((4, 32), np.float32)
    stored.standard_normal(32, np.float32)
    query = stored.standard_normal((32, 32), np.float32)
    rows = np.arange(32).reshape(4, 4, 2).swapaxes(1, 2).reshape(-1)
    state = ours.state_dict()
    assert np.array_equal(state["model.embed_tokens.weight"].numpy(), embedding)
    assert np.array_equal(state["model.layers.0.self_attn.q_proj.weight"].numpy(), query[rows])


def test_half_precision_is_what_was_asked_for(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_folder(tmp_path / "model"))
    ours = load_torch_decoder(checkpoint, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    assert logits(ours, ids(5, vocabulary=4), Segments([5])).dtype == torch.bfloat16


def test_meta_decoder_takes_no_memory() -> None:
    made = TorchDecoder(VARIANTS["hybrid"], FAMILY)
    assert all(parameter.is_meta for parameter in made.parameters())


class LowRank(torch.nn.Module):
    """What PEFT puts in a linear layer's place."""

    def __init__(self, base: torch.nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base = base
        self.a = torch.nn.Parameter(torch.randn(2, inputs) * 0.1)
        self.b = torch.nn.Parameter(torch.randn(outputs, 2) * 0.1)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.base(values) + values @ self.a.T @ self.b.T


@pytest.mark.parametrize(
    ("family", "path"),
    [("llama", "model.layers.1.self_attn.q_proj"), ("gpt2", "transformer.h.1.attn.c_attn")],
)
def test_replaced_leaf_computes_and_learns(family: str, path: str) -> None:
    layer = attending(kv_heads=4)
    ours = TorchDecoder(model(layer, layer), families.get("llama"), device="cpu")
    if family == "gpt2":
        fused = model(*VARIANTS["parallel"].layers[:1] * 2, embedding=Embedding(positions=128))
        ours = TorchDecoder(fused, families.get("gpt2"), device="cpu")
    initialise(ours, seed=1, std=0.3)
    before = logits(ours, ids(6), Segments([6]))
    parent, _, name = path.rpartition(".")
    leaf = ours.get_submodule(path)
    outputs = leaf.out_features
    setattr(ours.get_submodule(parent), name, LowRank(leaf, 32, outputs))
    after = logits(ours, ids(6), Segments([6]))
    assert (after - before).abs().max() > 1e-3
    after.sum().backward()
    adapter = ours.get_submodule(path)
    assert isinstance(adapter, LowRank)
    assert adapter.a.grad is not None
    assert adapter.a.grad.abs().max() > 0


def test_copy_of_a_decoder_is_its_own() -> None:
    first = decoder(VARIANTS["plain"])
    second = copy.deepcopy(first)
    expected = logits(first, ids(6), Segments([6]))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.zero_()
    assert torch.equal(logits(second, ids(6), Segments([6])), expected)


# ---- packed rows -------------------------------------------------------------------------


@pytest.mark.parametrize("name", VARIANTS)
def test_packed_sequences_equal_one_by_one(name: str) -> None:
    ours = decoder(VARIANTS[name])
    lengths, prefixes = [5, 1, 70, 23], [3, 0, 40, 23]
    tokens = ids(sum(lengths))
    with torch.no_grad():
        together = logits(ours, tokens, Segments(lengths, prefixes=prefixes))
        alone = [
            logits(ours, part, Segments([len(part)], prefixes=[prefix]))
            for part, prefix in zip(tokens.split(lengths), prefixes, strict=True)
        ]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_segments_refuse_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="one token at least"):
        Segments([3, 0])
    with pytest.raises(ValueError, match="one start and prefix each"):
        Segments([3, 2], starts=[0])
    with pytest.raises(ValueError, match="4 tokens, but segments of 5"):
        decoder(VARIANTS["plain"])(ids(4), Segments([3, 2]))


def test_injected_rows_replace_the_scaled_table() -> None:
    ours = decoder(VARIANTS["sandwich"])
    tokens = ids(5)
    table = ours.get_parameter("embedding.weight")
    same = Injection(torch.tensor([1, 3]), table[tokens[[1, 3]]] * 4.0)
    expected = ours(tokens, Segments([5]))
    torch.testing.assert_close(ours(tokens, Segments([5]), injection=same), expected)
    other = Injection(torch.tensor([1]), torch.zeros(1, 32))
    changed = ours(tokens, Segments([5]), injection=other)
    assert torch.equal(changed[0], expected[0])
    assert not torch.allclose(changed[1], expected[1])


def test_encoder_pools_each_sequence() -> None:
    spec = model(attending(mask="bidirectional"), head=Pooling("mean", is_normalised=False))
    ours = decoder(spec)
    segments = Segments([4, 3])
    hidden = ours(ids(7), segments)
    expected = torch.stack([hidden[:4].mean(0), hidden[4:].mean(0)])
    torch.testing.assert_close(ours.pool(hidden, segments), expected)
    changed = ids(7)
    changed[3] += 1
    assert not torch.allclose(ours(changed % 50, segments)[0], hidden[0])  # the first sees the last
    with pytest.raises(UnsupportedError, match="gives vectors"):
        ours.logits(hidden)
    with pytest.raises(UnsupportedError, match="gives logits"):
        decoder(VARIANTS["plain"]).pool(hidden, segments)


# ---- the parts, against their meaning in NumPy -------------------------------------------


@pytest.mark.parametrize(
    "change",
    [{}, {"window": 4}, {"soft_cap": 1.5}, {"mask": "prefix"}, {"mask": "prefix", "window": 4}],
    ids=str,
)
def test_attention_equals_the_reference(change: dict[str, object]) -> None:
    from yearling.models.torch_decoder.attention import attend
    from yearling.models.torch_decoder.cache import SeenKeys
    from yearling.models.torch_decoder.segments import Segment

    attention = attending(**change).mixer
    rng = np.random.default_rng(5)
    queries, keys, values = (rng.standard_normal((9, heads, 8)) for heads in (4, 2, 2))
    op = ops.Attention("", "", 0, 4, 2, 8, 8**-0.5, window=attention.window,
                       soft_cap=attention.soft_cap)  # fmt: skip
    ends = np.maximum(np.arange(1, 10), 6 if attention.mask == "prefix" else 0)
    expected = reference_operations.attention(
        op, queries, keys, values, positions=np.arange(9), ends=ends
    )
    q, k, v = (torch.from_numpy(array).float() for array in (queries, keys, values))
    mixed = attend(attention, q, SeenKeys(k, v, 0), Segment(slice(0, 9), 0, 9, 6))
    np.testing.assert_allclose(mixed.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        RotaryScaling("linear", 2.0),
        RotaryScaling("dynamic_ntk", 2.0, 8),
        RotaryScaling("stepped_ntk", 1.0, 8, has_length_factor=True),
        RotaryScaling("yarn", 4.0, 8, high_frequency=32.0),
    ],
    ids=lambda scaling: scaling.kind if scaling else "none",
)
def test_angles_equal_the_reference(scaling: RotaryScaling | None) -> None:
    from yearling.models.rotary import rotary_frequencies, rotary_stretch

    rotary = Rotary(8, 100.0, scaling=scaling)
    positions = positions_of(Segments([30], prefixes=[12]), torch.device("cpu"))
    frequencies, factor = rotary_frequencies(rotary)
    op = ops.Angles("", frequencies, factor, stretch=rotary_stretch(rotary))
    expected = reference_operations.angles(op, positions.token.numpy(), positions.length.numpy())
    cosine, sine = (part[:, 0].numpy() for part in angles_of(rotary, positions))
    np.testing.assert_allclose(np.hstack([cosine, sine]), expected, atol=1e-5)


def test_scan_equals_the_recurrence_of_the_reference() -> None:
    rng = np.random.default_rng(2)
    x, step, b, c = (rng.standard_normal((150, width)) for width in (6, 6, 4, 4))
    matrix, state = -np.exp(rng.standard_normal((6, 4))), rng.standard_normal((6, 4))
    op = ops.SelectiveScan("", "", "", 0, 0, "", 0, "", 0, matrix, np.zeros(6))
    expected, after = reference_operations.selective_scan(op, x, step, b, c, state)
    parts = [torch.from_numpy(array).float() for array in (x, step, matrix, b, c, state)]
    parts[1] = F.softplus(parts[1])
    x, step, matrix, b, c, state = parts
    scanned, kept = selective_scan(x[None], step[None], matrix, b[None], c[None], state[None])
    np.testing.assert_allclose(scanned[0].numpy(), expected, atol=1e-4)
    np.testing.assert_allclose(kept[0].numpy(), after, atol=1e-4)


def test_scan_has_the_gradient_that_small_changes_show() -> None:
    torch.manual_seed(3)
    shapes = [(2, 70, 3), (2, 70, 3), (3, 4), (2, 70, 4), (2, 70, 4), (2, 3, 4)]
    parts = [torch.rand(shape, dtype=torch.float64) for shape in shapes]
    parts[2] = -parts[2]
    assert torch.autograd.gradcheck(  # 70 tokens are more than a chunk
        lambda *values: sum(part.sin().sum() for part in selective_scan(*values)),
        [part.requires_grad_() for part in parts],
    )


@pytest.mark.parametrize("is_renormalised", [True, False])
@pytest.mark.parametrize("router", ["topk_softmax", "softmax_topk"])
def test_expert_choice_equals_the_reference(router: str, is_renormalised: bool) -> None:
    experts = Experts(5, 2, Plain(4), router=router, is_renormalised=is_renormalised)
    values = np.random.default_rng(3).integers(0, 3, (40, 5)).astype(float)  # many ties
    op = ops.Experts("", "", "", (), (), "silu", True, 2, router, is_renormalised)
    chosen, weights = choose_experts(experts, torch.from_numpy(values).float())
    for row, wanted in enumerate(reference_operations.expert_choice(op, values)):
        pairs = sorted(zip(chosen[row].tolist(), weights[row].tolist(), strict=True))
        np.testing.assert_allclose(pairs, wanted, atol=1e-6)


def test_random_routing_is_refused_by_name() -> None:
    layer = GATED.__class__(GATED.mixer, Experts(4, 2, EXPERTS.expert, router="random"),
                            GATED.residual)  # fmt: skip
    with pytest.raises(KeyError, match="router"):
        decoder(model(layer))(ids(3), Segments([3]))


# ---- training ----------------------------------------------------------------------------


def loss_of(ours: TorchDecoder, tokens: torch.Tensor, lengths: Sequence[int]) -> torch.Tensor:
    labels = tokens.roll(-1)
    labels[np.cumsum(lengths) - 1] = NO_LABEL
    hidden = ours(tokens, Segments(lengths, prefixes=[2] * len(lengths)))
    return labelled_losses(ours, hidden, labels).mean()


@pytest.mark.parametrize("name", VARIANTS)
def test_gradient_reaches_every_parameter_and_checkpointing_keeps_it(name: str) -> None:
    ours = decoder(VARIANTS[name])
    tokens = ids(42)
    loss_of(ours, tokens, [30, 12]).backward()
    plain = {n: p.grad.clone() for n, p in ours.named_parameters() if p.grad is not None}
    assert set(plain) == {n for n, _ in ours.named_parameters()}
    silent = {n for n, gradient in plain.items() if not gradient.abs().max() > 0}
    # A bias of all keys moves every score of a query alike.
    assert {n for n in silent if not n.endswith("key.bias")} == set()
    ours.zero_grad()
    ours.uses_checkpointing = True
    loss_of(ours, tokens, [30, 12]).backward()
    for n, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, plain[n], atol=1e-6, rtol=1e-4)


def test_loss_is_the_cross_entropy_at_labels_alone() -> None:
    ours = decoder(VARIANTS["plain"])
    tokens = ids(12)
    labels = torch.full((12,), NO_LABEL)
    labels[[2, 3, 8]] = torch.tensor([4, 1, 9])
    hidden = ours(tokens, Segments([12]))
    everywhere = -ours.logits(hidden).log_softmax(-1)
    expected = torch.stack([everywhere[2, 4], everywhere[3, 1], everywhere[8, 9]])
    losses = labelled_losses(ours, hidden, labels, rows_at_once=2)
    torch.testing.assert_close(losses, expected)
    assert labelled_losses(ours, hidden, torch.full((12,), NO_LABEL)).numel() == 0


def test_logits_are_computed_only_where_there_is_a_label(monkeypatch) -> None:
    ours = decoder(VARIANTS["plain"])
    labels = torch.full((12,), NO_LABEL)
    labels[[2, 3, 8]] = 7
    rows = []
    compute = ours.logits
    monkeypatch.setattr(ours, "logits", lambda h: (rows.append(len(h)), compute(h))[1])
    labelled_losses(ours, ours(ids(12), Segments([12])), labels, rows_at_once=2)
    assert rows == [2, 1]


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize(("rows", "columns"), [(1_024, 2_048), (2, 5)])
def test_loss_under_a_frozen_head_has_the_same_gradient(
    is_tied: bool, rows: int, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each label's gradient is computed beside its loss, whatever factor it gets later.

    Rows are long enough that the largest logit of a part is far above that of the one before.
    """
    monkeypatch.setattr(f"{labelled_losses.__module__}._ROWS_OF_A_PART", rows)
    monkeypatch.setattr(f"{labelled_losses.__module__}._LOGITS_OF_A_PART", columns)
    spec = replace(VARIANTS["plain"], head=Head(is_tied=is_tied, scale=0.7))
    ours = decoder(spec)
    labels = torch.full((12,), NO_LABEL)
    labels[[2, 3, 8]] = torch.tensor([4, 1, 9])
    factors = torch.tensor([0.5, -2.0, 1.5])
    gradients = []
    for is_frozen in (False, True):
        ours.requires_grad_(not is_frozen)
        hidden = 30 * torch.randn(12, spec.width, generator=torch.Generator().manual_seed(3))
        hidden.requires_grad_()
        losses = labelled_losses(ours, hidden, labels, rows_at_once=2)
        (losses * factors).sum().backward()
        assert hidden.grad is not None
        gradients.append((losses.detach(), hidden.grad))
    torch.testing.assert_close(gradients[0], gradients[1])


def test_initialisation_depends_on_its_seed_alone() -> None:
    spec = VARIANTS["hybrid"]
    first, again, other = (decoder(spec, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])


def test_norms_begin_as_plain_norms() -> None:
    ours = TorchDecoder(VARIANTS["sandwich"], FAMILY, device="cpu")
    initialise(ours, seed=1)
    state = ours.state_dict()
    assert state["layers.0.part.mixer_norm.weight"].unique().tolist() == [1.0]
    assert state["layers.0.part.mixer_post_norm.weight"].unique().tolist() == [0.0]  # 1 is added


def test_training_lowers_the_loss() -> None:
    ours = TorchDecoder(model(GATED, rotating(RotaryScaling("linear", 2.0)), head=Head()),
                        FAMILY, device="cpu")  # fmt: skip
    initialise(ours, seed=1)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=1e-2)
    tokens = ids(40)
    losses = []
    for _ in range(15):
        loss = loss_of(ours, tokens, [20, 20])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(np.log(50), abs=0.1)
    assert losses[-1] < 0.5 * losses[0]
