"""LoRA: a low-rank update beside each linear layer, whose own weight stays as it is.

Use it first: it trains about one parameter in a hundred, and a merged model costs nothing more.

Source: Hu et al. 2021, arXiv:2106.09685; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732.
"""

from yearling.training.adapters import AdapterKind, adapters
from yearling.training.lora_layers import (
    LowRank,
    attach_low_rank,
    load_low_rank,
    merge_low_rank,
    save_low_rank,
    without_low_rank,
)

__all__ = ["LoraConfig"]


class LoraConfig(LowRank):
    """Options of LoRA."""


adapter = adapters.register(
    AdapterKind(
        summary="A low-rank update beside each linear layer.",
        source="Hu et al. 2021, arXiv:2106.09685",
        config=LoraConfig,
        attach=attach_low_rank,
        save=save_low_rank,
        load=load_low_rank,
        merge=merge_low_rank,
        disabled=without_low_rank,
    ),
    __name__,
)
