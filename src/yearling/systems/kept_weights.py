"""Weights of decoders of any family that take minutes to learn, trained once and kept.

As with `tiny_bases.kept_decoder`, weights follow from the settings and from the code that trains
them; both are hashed into the name of their file below `yearling_home()`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

from yearling.core.paths import yearling_home
from yearling.systems.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import nn

__all__ = ["train_or_read"]


def train_or_read(
    decoder: "nn.Module",
    name: str,
    settings: Mapping[str, Any],
    train: Callable[[], object],
    say: Callable[[str], None],
) -> None:
    """Give a decoder its trained weights, from their file if there is one.

    Args:
        decoder: With first values.
        name: Begins the file's name.
        settings: All that the weights depend on beside this module's code; JSON values. `modules`
            names the code that trains, as `System.parts` does.
        train: Trains the decoder where there is no file.
        say: Is told which of the two happened, and how long it took.
    """
    from safetensors.torch import load_file, save_file

    modules = ["systems.kept_weights", *settings["modules"]]
    known = json.dumps([settings, fingerprint(modules)], sort_keys=True)
    digest = hashlib.sha256(known.encode()).hexdigest()[:16]
    file = yearling_home() / "tiny-bases" / f"{name}-{digest}.safetensors"
    if file.exists():
        decoder.load_state_dict(load_file(file))
        say(f"{name}: read from {file.name}")
        return
    started = perf_counter()
    train()
    say(f"{name}: trained in {perf_counter() - started:.1f} s")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    tensors = {key: tensor.contiguous() for key, tensor in decoder.state_dict().items()}
    save_file(tensors, partial)
    partial.replace(file)
