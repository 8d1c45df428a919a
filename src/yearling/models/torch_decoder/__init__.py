"""Models in PyTorch: training, GPUs, and the reference for what a spec means.

Import this only where torch is wanted; nothing that serves without it does.
"""

from yearling.models.torch_decoder.cache import DecoderCache, FixedKeys, SeenKeys, State
from yearling.models.torch_decoder.decoder import Injection, TorchDecoder
from yearling.models.torch_decoder.loading import initialise, load_torch_decoder
from yearling.models.torch_decoder.loss import NO_LABEL, labelled_losses
from yearling.models.torch_decoder.segments import Segment, Segments

__all__ = [
    "NO_LABEL",
    "DecoderCache",
    "FixedKeys",
    "Injection",
    "SeenKeys",
    "Segment",
    "Segments",
    "State",
    "TorchDecoder",
    "initialise",
    "labelled_losses",
    "load_torch_decoder",
]
