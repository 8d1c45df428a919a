"""The five sketches of docs/training.md, run as they stand there: the interface holds them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from tests.training.toy import PointSource, regression, same, sgd, weights
from yearling.core.protocols import RolloutModel
from yearling.training.config import TrainConfig
from yearling.training.loop import Hooks, Loop, LoopConfig, Optimization, StepReport, run_loop
from yearling.training.objective import Objective, Update

PAGE = Path(__file__).parents[2] / "docs" / "training.md"


def block(name: str, language: str = "python") -> str:
    """The block of the page that defines a name."""
    parts = PAGE.read_text(encoding="utf-8").split(f"```{language}\n")[1:]
    (found,) = [part.split("```")[0] for part in parts if name in part.split("```")[0]]
    return found


def sketch(name: str) -> Any:
    namespace: dict[str, Any] = {"__name__": "sketch"}
    exec(compile(block(f" {name}("), str(PAGE), "exec"), namespace)
    return namespace[name]


class Source:
    """Steps of micro-batches made from a seed that is the step's number."""

    def __init__(self, make: Any) -> None:
        self.make, self.done = make, 0

    def next_step(self) -> Sequence[Any]:
        self.done += 1
        batches: Sequence[Any] = self.make(torch.Generator().manual_seed(self.done))
        return batches

    def row_names(self, batch: Any) -> Sequence[str]:
        return ["a row"]

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]


def adam(lr: float) -> Optimization:
    return Optimization(lambda update: torch.optim.Adam(update.parameters.values(), lr=lr))


def trained(
    objective: Objective[Any], source: Source, optimization: Optimization, steps: int
) -> list[StepReport]:
    reports: list[StepReport] = []
    run_loop(objective, source, optimization, LoopConfig(steps), Hooks(on_step=reports.append))
    return reports


def resumes_exactly(make: Any, source: Any, optimization: Optimization) -> bool:
    """Whether three steps, and two more from a saved state, are five steps."""
    whole = make()
    Loop(whole, source(), optimization, LoopConfig(5)).run()
    states: list[Any] = []
    hooks: Hooks[Any] = Hooks(
        save=lambda step, state, is_best: states.append(
            torch.utils._pytree.tree_map_only(Tensor, lambda t: t.detach().clone(), state)
        )
    )
    Loop(make(), source(), optimization, LoopConfig(5, checkpoint_every=3), hooks).run()
    rest = make()
    for module in rest.modules.values():
        nn.utils.vector_to_parameters(torch.zeros(9_999), module.parameters())
    loop = Loop(rest, source(), optimization, LoopConfig(5))
    loop.load_state_dict(states[0])
    loop.run()
    return same(weights(whole), weights(rest))


def test_dpo_learns_which_answer_is_better() -> None:
    def model(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Linear(4, 2)

    def pairs(generator: torch.Generator) -> list[Tensor]:
        return [torch.randn(3, 4, generator=generator) + 1 for _ in range(2)]

    reports = trained(sketch("dpo")(model(0), model(0), beta=1.0), Source(pairs), adam(0.05), 40)
    first, last = reports[0].updates["loss"], reports[-1].updates["loss"]
    assert first.loss == pytest.approx(np.log(2), abs=1e-6)
    assert last.loss < 0.2
    assert (first.metrics["accuracy"], last.metrics["accuracy"]) == (0.0, 1.0)


class TableEngine:
    """Samples from a table of logits, as an engine would from its own copy of the weights."""

    def __init__(self) -> None:
        self.table = np.zeros((3, 3))
        self.versions: list[str] = []

    def update_weights(self, tensors: Iterable[tuple[str, Any]], *, version: str) -> None:
        self.table = dict(tensors)["weight"].copy()
        self.versions.append(version)

    def generate(
        self, prompt: Any, *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> tuple[int, ...]:
        logits = self.table[prompt[0]] / temperature
        chances = np.exp(logits - logits.max())
        return (int(np.random.default_rng(seed).choice(3, p=chances / chances.sum())),)

    def pause(self) -> None: ...

    def resume(self) -> None: ...


def reward(prompts: Tensor, answers: Tensor) -> Tensor:
    return (prompts == answers).float()


class Critic(nn.Embedding):
    def forward(self, prompts: Tensor) -> Tensor:
        return super().forward(prompts)[:, 0]


def prompts(generator: torch.Generator) -> list[Tensor]:
    return [torch.randint(3, (8,), generator=generator) for _ in range(2)]


def table_ppo(engine: TableEngine | None = None) -> Objective[Any]:
    torch.manual_seed(0)
    policy, critic = nn.Embedding(3, 3), Critic(3, 1)
    objective: Objective[Any] = sketch("ppo")(policy, critic, engine or TableEngine(), reward)
    return objective


def test_ppo_learns_from_what_the_engine_samples_with_the_newest_weights() -> None:
    engine = TableEngine()
    assert isinstance(engine, RolloutModel)
    objective = table_ppo(engine)
    policy = objective.modules["policy"]
    before = policy(torch.arange(3)).softmax(-1).diagonal().mean()
    reports = trained(objective, Source(prompts), adam(0.05), 30)
    after = policy(torch.arange(3)).softmax(-1).diagonal().mean()
    assert before < 0.5
    assert after > 0.85
    assert engine.versions == [str(number) for number in range(1, 31)]
    assert objective.state["sampler"].state_dict() == {"version": 30, "count": 480}
    assert set(reports[0].updates) == {"loss", "value"}


def test_ppo_takes_an_optimizer_step_in_every_round() -> None:
    counts: dict[str, int] = {}

    def build(update: Update[Any]) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(update.parameters.values(), lr=0.01)

        def count(*_: Any) -> None:
            counts[update.name] = counts.get(update.name, 0) + 1

        optimizer.register_step_post_hook(count)
        return optimizer

    trained(table_ppo(), Source(prompts), Optimization(build), 2)
    assert counts == {"loss": 6, "value": 6}


def test_ppo_resumes_with_the_samples_that_would_have_come() -> None:
    assert resumes_exactly(table_ppo, lambda: Source(prompts), adam(0.05))


class Denoiser(nn.Linear):
    def __init__(self) -> None:
        super().__init__(3, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        return super().forward(torch.cat([x, time], -1))


def clean(generator: torch.Generator) -> list[Tensor]:
    return [torch.randn(4, 2, generator=generator) for _ in range(2)]


def denoisers() -> Objective[Any]:
    torch.manual_seed(3)
    student, target = Denoiser(), Denoiser()
    target.load_state_dict(student.state_dict())
    times = torch.linspace(0.1, 1, 5)

    def teacher_step(x: Tensor, later: Tensor, earlier: Tensor) -> Tensor:
        return x * earlier / later

    objective: Objective[Any] = sketch("consistency")(student, target, teacher_step, times, 0.9)
    return objective


def test_consistency_target_follows_the_student_and_learns_nothing_itself() -> None:
    objective = denoisers()
    student, target = objective.modules["student"], objective.modules["target"]
    path = [student.get_parameter("weight").detach().clone()]
    modes = set[tuple[bool, bool]]()

    def remember(report: StepReport) -> None:
        path.append(student.get_parameter("weight").detach().clone())
        modes.add((student.training, target.training))

    config = LoopConfig(4)
    run_loop(objective, Source(clean), adam(0.01), config, Hooks(on_step=remember))
    wanted = path[0]
    for live in path[1:]:
        wanted = 0.9 * wanted + 0.1 * live
    torch.testing.assert_close(target.get_parameter("weight").detach(), wanted)
    assert not torch.equal(path[0], path[-1])
    assert modes == {(True, False)}


def test_consistency_resumes_with_its_target_and_its_noise() -> None:
    assert resumes_exactly(denoisers, lambda: Source(clean), adam(0.01))


class Coder(nn.Module):
    """Nearest of four codes, with a gradient straight through."""

    def __init__(self) -> None:
        super().__init__()
        self.codes = nn.Embedding(4, 2)
        self.out = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        code = self.codes(torch.cdist(x, self.codes.weight).argmin(-1))
        return self.out(x + (code - x).detach()), (code - x).square().sum(-1)


def coder_and_critic() -> tuple[Coder, nn.Module]:
    torch.manual_seed(2)
    return Coder(), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))


def rates(update: Update[Any]) -> torch.optim.Optimizer:
    """A different optimizer for each update."""
    if update.name == "discriminator":
        return torch.optim.SGD(update.parameters.values(), lr=0.5)
    return torch.optim.Adam(update.parameters.values(), lr=0.02)


def test_vq_gan_gives_each_optimizer_the_gradient_of_its_own_loss() -> None:
    coder, critic = coder_and_critic()
    objective = sketch("vq_gan")(coder, critic)
    batches = clean(torch.Generator().manual_seed(1))
    by_hand = sketch("vq_gan")(*coder_and_critic())
    own = [u.parameters for u in by_hand.updates]
    rows = sum(len(batch) for batch in batches)
    for update, parameters in zip(by_hand.updates, own, strict=True):
        total = sum(update.loss(batch).total for batch in batches) / rows
        found = torch.autograd.grad(total, list(parameters.values()))
        for parameter, gradient in zip(parameters.values(), found, strict=True):
            parameter.grad = gradient
        rates(update).step()  # the coder moves before the discriminator looks at it
    run_loop(objective, Source(clean), Optimization(rates), LoopConfig(1, clip=None))
    found_weights, wanted = weights(objective), weights(by_hand)
    for name, value in wanted.items():
        torch.testing.assert_close(found_weights[name], value)


def test_vq_gan_learns_and_resumes() -> None:
    objective = sketch("vq_gan")(*coder_and_critic())
    reports = trained(objective, Source(clean), Optimization(rates), 60)
    assert reports[-1].updates["loss"].loss < reports[0].updates["loss"].loss
    assert reports[0].updates["discriminator"].lr == 0.5
    assert resumes_exactly(
        lambda: sketch("vq_gan")(*coder_and_critic()),
        lambda: Source(clean),
        Optimization(rates),
    )


def test_wsam_steps_by_both_gradients() -> None:
    kind = {"Wsam": None}
    exec(compile(block("class Wsam"), str(PAGE), "exec"), kind)
    made: Any = kind["Wsam"]
    objective, by_hand = regression(), regression()
    optimization = Optimization(lambda u: made(u.parameters.values(), 0.01), uses_closure=True)
    run_loop(objective, PointSource((3, 1)), optimization, LoopConfig(1, clip=None))
    (batch,) = PointSource((4,)).next_step()
    update = by_hand.updates[0]
    parameters = list(update.parameters.values())

    def gradient() -> list[Tensor]:
        return list(torch.autograd.grad(update.loss(batch).total / 4, parameters))

    here = gradient()
    norm = torch.cat([part.flatten() for part in here]).norm()
    with torch.no_grad():
        for parameter, part in zip(parameters, here, strict=True):
            parameter.add_(part * 0.05 / norm)
    worst = gradient()
    with torch.no_grad():
        for parameter, one, other in zip(parameters, here, worst, strict=True):
            parameter.sub_(one * 0.05 / norm)
            parameter.sub_(0.01 * (one + 9 * (other - one)))
    found, wanted = weights(objective), weights(by_hand)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-4)
    plain = regression()
    run_loop(plain, PointSource((3, 1)), sgd(0.01), LoopConfig(1, clip=None))
    assert not same(weights(plain), found)


def test_configuration_of_the_page_is_one() -> None:
    values = yaml.safe_load(block("model: smollm2", "yaml"))
    found = TrainConfig.model_validate(values)
    assert found.adapter is not None
    assert found.adapter.name == "lora"
