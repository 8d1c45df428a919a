"""A small system that is measured at once, for the tests of the catalogue."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from yearling.systems.system import Ablation, Check, Curve, Published, System, Trial


def measure(trial: Trial) -> Mapping[str, float]:
    """Figures that rise a little with the seed, and are bad with the essential part off."""
    trial.say("measuring")
    (trial.folder / "file").write_text("free to write here")
    trial.curves.append(Curve("ours", "tokens", "loss", [(1, 4.0), (1024, 2.0)]))
    if trial.is_ablated:
        return {"copied": 40.0}
    return {"copied": 98.0 + trial.seed / 10, "seconds_each": 2.0, "told": 7.0}


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that tests beside this one keep theirs."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def toy() -> System:
    """A system under a slug of the index, with two checks and a figure beyond them."""
    return System(
        slug="mamba",
        claim="It copies.",
        published=Published("99.8 % of tokens", "Somebody 2023, table 1"),
        honesty="Only a toy.",
        parts=("core.errors",),
        checks=(
            Check("copied", "%", "Share of tokens copied.", at_least=97.0),
            Check("seconds_each", "s", "Time of each.", at_most=3.0, is_worst_judged=True),
        ),
        run=measure,
        ablation=Ablation("selection off", breaks=("copied",)),
        paper={"layers": 24, "width": 768},
    )


@pytest.fixture
def idle_toy(toy: System) -> System:
    """The same, with an essential part that makes no difference."""
    return replace(toy, run=lambda trial: {"copied": 98.0, "seconds_each": 2.0})
