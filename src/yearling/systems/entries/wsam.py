"""WSAM: sharpness as a penalty whose weight can be chosen, against SAM and plain training.

A small convolutional network learns scikit-learn's digits with a share of its labels wrong. It
can learn the wrong ones by heart, and plain training does; the flatter the minimum, the fewer of
them it keeps. Every arm goes through the platform's own loop and differs in its optimizer alone.

Source: Yue et al. 2023, arXiv:2305.15817; Foret et al. 2020, arXiv:2010.01412 (SAM).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import fmean
from time import process_time
from typing import TYPE_CHECKING, Any

from yearling.systems.system import Ablation, Check, Published, System, Trial, systems

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["system"]

_NOISES = (0.0, 0.2, 0.4)
_NUM_TRAINED, _BATCH, _STEPS = 600, 50, 600
_CHANNELS, _HIDDEN = 16, 128
_SGD = {"base": "sgd", "momentum": 0.9, "lr": 0.05}
_RHO, _GAMMA = 0.05, 0.95  # the authors' usual radius, and the upper end of their range

_POWER_STEPS = 20
_NUM_EQUAL_STEPS = 20

_NUM_STARTS, _TOY_STEPS = 10, 150
_TOY = {"base": "sgd", "momentum": 0.0, "lr": 0.1, "rho": 0.2}
_TOY_GAMMA = 0.9
_SHARP, _FLAT = (-1.0, 0.0), (1.0, 0.0)


@dataclass(frozen=True)
class _Arm:
    """An optimizer of the comparison, by its registered name and options."""

    name: str
    optimizer: str
    options: Mapping[str, Any]


@dataclass(frozen=True)
class _Digits:
    """Images (n, 1, 8, 8) and labels (n,)."""

    images: "Tensor"
    labels: "Tensor"


@dataclass(frozen=True)
class _Outcome:
    """What training came to: test accuracy in %, top eigenvalue of the Hessian, CPU time."""

    accuracy: float
    eigenvalue: float
    seconds: float


def _run(trial: Trial) -> Mapping[str, float]:
    gamma = 0.0 if trial.is_ablated else _GAMMA
    arms = (
        _Arm("base", "wsam", {"gamma": 0.0}),
        _Arm("sam", "sam", {"rho": _RHO}),
        _Arm("wsam", "wsam", {"rho": _RHO, "gamma": gamma}),
    )
    trial.say(f"two dimensions: {_NUM_STARTS} starts around the sharp minimum")
    figures = {"flat_starts": _flat_starts(trial.seed, 0.0 if trial.is_ablated else _TOY_GAMMA)}
    if trial.is_ablated:  # then WSAM is the base, so what SAM does says nothing
        return {**figures, **_compare(trial, (arms[0], arms[2]), (0.4,))}
    trial.say("digits: gamma 0.5, coupled, beside SAM")
    figures["sam_difference"] = _difference_from_sam(trial.seed)
    figures |= _compare(trial, arms, _NOISES)
    figures["sam_minus_base"] = figures["sam_accuracy"] - figures["base_accuracy"]
    figures["wsam_minus_sam"] = figures["wsam_accuracy"] - figures["sam_accuracy"]
    return figures


# --- digits with wrong labels ------------------------------------------------------------------


def _compare(trial: Trial, arms: Sequence[_Arm], noises: Sequence[float]) -> dict[str, float]:
    """Train each arm at each noise, from the same weights and over the same batches."""
    found: dict[tuple[str, float], _Outcome] = {}
    for noise in noises:
        for arm in arms:
            found[arm.name, noise] = outcome = _train(arm, noise, trial.seed)
            trial.say(
                f"digits, {noise:.0%} of labels wrong, {arm.name}: {outcome.accuracy:.1f} % right, "
                f"top eigenvalue {outcome.eigenvalue:.2f}, {outcome.seconds:.1f} s"
            )
    figures = {}
    for arm in arms:
        own = [found[arm.name, noise] for noise in noises]
        figures[f"{arm.name}_accuracy"] = fmean(outcome.accuracy for outcome in own)
        figures[f"{arm.name}_seconds"] = sum(outcome.seconds for outcome in own)
        figures |= {
            f"{arm.name}_accuracy_{noise * 100:.0f}": found[arm.name, noise].accuracy
            for noise in noises
        }
    figures["gain_at_40"] = found["wsam", 0.4].accuracy - found["base", 0.4].accuracy
    figures["sharpness_ratio"] = max(
        found["wsam", noise].eigenvalue / found["base", noise].eigenvalue for noise in noises
    )
    return figures


def _train(arm: _Arm, noise: float, seed: int) -> _Outcome:
    import torch

    trained, held_out = _digits(seed, noise)
    network = _network(seed)
    started = process_time()
    _fit(network, trained, arm, seed=seed, num_steps=_STEPS)
    seconds = process_time() - started
    with torch.no_grad():
        is_right = network(held_out.images).argmax(1) == held_out.labels
    eigenvalue = _top_eigenvalue(network, trained)
    return _Outcome(100.0 * is_right.float().mean().item(), eigenvalue, seconds)


def _fit(network: "nn.Module", data: _Digits, arm: _Arm, *, seed: int, num_steps: int) -> None:
    """Train with the platform's loop."""
    import torch.nn.functional as F

    from yearling.training.loop import LoopConfig, Optimization, run_loop
    from yearling.training.objective import Loss, Objective, Update
    from yearling.training.optimizers import optimizers
    from yearling.training.schedules import ScheduleConfig

    kind = optimizers.get(arm.optimizer)
    config = kind.config(**{**_SGD, **arm.options})

    def loss(batch: _Digits) -> Loss:
        return Loss(F.cross_entropy(network(batch.images), batch.labels, reduction="sum"))

    update = Update("loss", dict(network.named_parameters()), loss, lambda b: float(len(b.labels)))
    optimization = Optimization(
        lambda made: kind.build([{"params": list(made.parameters.values())}], config),
        uses_closure=kind.uses_closure,
        schedule=ScheduleConfig(name="cosine"),
    )
    objective = Objective({"network": network}, [update])
    loop = LoopConfig(max_steps=num_steps, clip=None, seed=seed)
    run_loop(objective, _Shuffled(data, seed), optimization, loop)


class _Shuffled:
    """Batches of the data in a new order each epoch, for ever."""

    def __init__(self, data: _Digits, seed: int) -> None:
        self._data = data
        self._seed = seed
        self._step = 0

    def next_step(self) -> Sequence[_Digits]:
        import torch

        num_labels = len(self._data.labels)
        epoch, place = divmod(self._step, num_labels // _BATCH)
        generator = torch.Generator().manual_seed(1_000_003 * self._seed + epoch)
        order = torch.randperm(num_labels, generator=generator)
        chosen = order[place * _BATCH : (place + 1) * _BATCH]
        self._step += 1
        return [_Digits(self._data.images[chosen], self._data.labels[chosen])]

    def row_names(self, batch: Any) -> Sequence[str]:
        return [f"digits, step {self._step}"]

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]


def _digits(seed: int, noise: float) -> tuple[_Digits, _Digits]:
    """Give what is trained on, with a share of labels made wrong, and the rest untouched."""
    import numpy as np
    import torch

    random = np.random.default_rng(seed)
    found = import_module("sklearn.datasets").load_digits()
    order = random.permutation(len(found.target))
    images = torch.from_numpy(found.images[order] / 16).float().unsqueeze(1)
    labels = found.target[order].astype(np.int64)
    is_wrong = np.arange(len(labels)) < round(noise * _NUM_TRAINED)  # rows are in random order
    labels[is_wrong] = (labels[is_wrong] + random.integers(1, 10, is_wrong.sum())) % 10
    answers = torch.from_numpy(labels)
    return (
        _Digits(images[:_NUM_TRAINED], answers[:_NUM_TRAINED]),
        _Digits(images[_NUM_TRAINED:], answers[_NUM_TRAINED:]),
    )


def _network(seed: int) -> "nn.Module":
    """A convolution and two linear layers, wide enough to learn every label by heart."""
    import torch
    from torch import nn

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, _CHANNELS, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(_CHANNELS * 16, _HIDDEN),
            nn.ReLU(),
            nn.Linear(_HIDDEN, 10),
        )


def _top_eigenvalue(network: "nn.Module", data: _Digits) -> float:
    """Largest eigenvalue of the Hessian of the training loss, by power iteration."""
    import torch
    import torch.nn.functional as F

    weights = list(network.parameters())
    loss = F.cross_entropy(network(data.images), data.labels)
    slopes = torch.autograd.grad(loss, weights, create_graph=True)
    slope = torch.cat([part.reshape(-1) for part in slopes])
    vector = torch.randn(len(slope), generator=torch.Generator().manual_seed(0))
    eigenvalue = 0.0
    for _ in range(_POWER_STEPS):
        vector = vector / vector.norm()
        parts = torch.autograd.grad(slope, weights, vector, retain_graph=True)
        product = torch.cat([part.reshape(-1) for part in parts])
        eigenvalue = (vector @ product).item()
        vector = product
    return eigenvalue


def _difference_from_sam(seed: int) -> float:
    """Largest difference of a weight after some steps with gamma = 0.5, coupled, and with SAM."""
    data, _ = _digits(seed, 0.4)
    trained = []
    for arm in (
        _Arm("sam", "sam", {"rho": _RHO}),
        _Arm("wsam", "wsam", {"rho": _RHO, "gamma": 0.5, "is_decoupled": False}),
    ):
        network = _network(seed)
        _fit(network, data, arm, seed=seed, num_steps=_NUM_EQUAL_STEPS)
        trained.append(network)
    pairs = zip(trained[0].parameters(), trained[1].parameters(), strict=True)
    return max((one - other).abs().max().item() for one, other in pairs)


# --- a sharp minimum and a flat one ------------------------------------------------------------


def _flat_starts(seed: int, gamma: float) -> float:
    """Share of starts around the sharp minimum, the deeper one, that end in the flat one, in %."""
    import torch
    from torch import nn

    from yearling.training.optimizers import optimizers

    kind = optimizers.get("wsam")
    config = kind.config(**_TOY, gamma=gamma)
    generator = torch.Generator().manual_seed(seed)
    num_flat = 0
    for _ in range(_NUM_STARTS):
        offset = 2 * torch.rand(2, generator=generator) - 1
        place = nn.Parameter(torch.tensor(_SHARP) + offset)
        optimizer = kind.build([{"params": [place]}], config)
        _descend(place, optimizer)
        num_flat += bool((place.detach() - torch.tensor(_FLAT)).norm() < 0.5)
    return 100.0 * num_flat / _NUM_STARTS


def _descend(place: "nn.Parameter", optimizer: Any) -> None:
    def closure() -> "Tensor":
        place.grad = None
        height = _landscape(place)
        height.backward()  # type: ignore[no-untyped-call]
        return height

    for _ in range(_TOY_STEPS):
        closure()
        optimizer.step(closure)


def _landscape(place: "Tensor") -> "Tensor":
    """A wide bowl around the flat minimum, with a narrow hole that is deeper than its bottom."""
    import torch

    sharp, flat = torch.tensor(_SHARP), torch.tensor(_FLAT)
    hole = torch.exp(-(place - sharp).square().sum() / (2 * 0.3**2))
    return 0.15 * (place - flat).square().sum() - 1.2 * hole


system = systems.register(
    System(
        slug="wsam",
        claim="SAM's loss, seen again as the loss plus its sharpness with a weight of its own, "
        "makes a more general method whose minima are flatter and generalise better.",
        published=Published(
            "better than or level with SAM and its variants on CIFAR and ImageNet",
            "Yue et al. 2023, arXiv:2305.15817, abstract",
        ),
        honesty="The paper trains ResNets on CIFAR and ImageNet; here a network of 34 thousand "
        "weights learns 600 images of digits. SAM and WSAM have the same radius, the usual one; a "
        "larger radius brings SAM nearer. Both need two gradients a step: about twice the time, "
        "which is printed.",
        parts=(
            "training.loop",
            "training.objective",
            "training.optimizers.sam",
            "training.optimizers.wsam",
        ),
        checks=(
            Check(
                "gain_at_40",
                "points",
                "Test accuracy of WSAM less the base optimizer's, with 40 % of labels wrong.",
                at_least=1.0,
            ),
            Check(
                "wsam_minus_sam",
                "points",
                "Test accuracy of WSAM less SAM's, mean over 0, 20 and 40 % of labels wrong.",
                at_least=0.0,
            ),
            Check(
                "sam_minus_base",
                "points",
                "Test accuracy of SAM less the base optimizer's, mean over the same.",
                at_least=0.0,
            ),
            Check(
                "sharpness_ratio",
                "x",
                "Top eigenvalue of the Hessian over the base optimizer's, at the worst noise.",
                at_most=0.999,
                is_worst_judged=True,
            ),
            Check(
                "flat_starts",
                "%",
                "Starts around a deeper, sharp minimum in the plane that end in the flat one.",
                at_least=80.0,
            ),
            Check(
                "sam_difference",
                "",
                "Largest difference of a weight between gamma = 0.5, coupled, and SAM.",
                at_most=1e-6,
                is_worst_judged=True,
            ),
        ),
        run=_run,
        ablation=Ablation(
            "gamma = 0: sharpness has no weight",
            breaks=("gain_at_40", "sharpness_ratio", "flat_starts"),
        ),
        paper={
            "model": "resnet-18",
            "data": "cifar-100",
            "epochs": 200,
            "optimizer": {
                "name": "wsam",
                "base": "sgd",
                "momentum": 0.9,
                "rho": 0.05,
                "gamma": 0.9,
            },
        },
        seeds=(0, 1, 2, 3, 4),
    ),
    __name__,
)
