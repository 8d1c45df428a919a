"""A learned prefix is what tokens before the sequence would have left."""

import pytest
import torch

from tests.models.torch_variants import VARIANTS, decoder
from yearling.core.errors import UnsupportedError
from yearling.models.torch_decoder import FixedKeys, Segments, TorchDecoder
from yearling.training.adapters import adapters
from yearling.training.adapters.p_tuning import PTuningConfig

P_TUNING = adapters.get("p_tuning")


def attached(tokens: int = 5) -> TorchDecoder:
    model = decoder(VARIANTS["plain"])
    P_TUNING.attach(model, PTuningConfig(prefix_tokens=tokens, std=1.0), 1)
    return model


class Recorder:
    """A cache that shows the keys and values a layer computed."""

    def __init__(self) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def extend(self, layer: int, keys: torch.Tensor, values: torch.Tensor):  # type: ignore[no-untyped-def]
        from yearling.models.torch_decoder import SeenKeys

        self.seen.append((keys, values))
        return [SeenKeys(keys, values, 0)]

    def state(self, layer: int, sequence: int) -> None:
        return None

    def keep_state(self, layer: int, sequence: int, state: object) -> None:
        pass


def test_prefix_of_real_tokens_is_these_tokens_in_front() -> None:
    ids = torch.randint(50, (14,), generator=torch.Generator().manual_seed(2))
    plain, recorder = decoder(VARIANTS["plain"]), Recorder()
    plain(ids[:5], Segments([5]), cache=recorder)
    expected = plain(ids, Segments([14]))[5:]
    model = attached()
    flat = torch.stack([torch.stack(pair) for pair in recorder.seen])  # layers, 2, P, G, D
    with torch.no_grad():
        model.prefix.values.copy_(flat.permute(2, 0, 1, 3, 4).flatten(1))
    torch.testing.assert_close(model(ids[5:], Segments([9])), expected, atol=1e-4, rtol=1e-4)


def test_every_packed_sequence_begins_with_the_prefix() -> None:
    model, tokens = attached(), torch.randint(50, (20,))
    packed = model(tokens, Segments([13, 7]))
    alone = [model(part, Segments([len(part)])) for part in tokens.split([13, 7])]
    torch.testing.assert_close(packed, torch.cat(alone))


def test_what_has_no_such_prefix_is_refused() -> None:
    for name in ("mamba", "prefix", "hybrid"):
        with pytest.raises(UnsupportedError, match="p_tuning prepends to causal attention"):
            P_TUNING.attach(decoder(VARIANTS[name]), PTuningConfig(), 1)
    model, tokens = attached(), torch.arange(4)
    cache = FixedKeys(Segments([4]), *torch.zeros(2, 2, 1, 2, 8))
    with pytest.raises(UnsupportedError, match="goes on from no cache"):
        model(tokens, Segments([4]), cache=cache)
