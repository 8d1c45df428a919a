"""Adapters in the engine: who gets them, what is shared, and when they are freed."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from driving import Answer, make_engine, make_request
from fake_executor import FakeExecutor

from yearling.core.errors import ConfigError, EngineError, RequestError, UnsupportedError
from yearling.serving.async_engine import LocalEngine
from yearling.serving.engine import Engine
from yearling.serving.executor import SequenceInput, SequenceOutput

PROMPT = list(range(40))


class AdaptedExecutor(FakeExecutor):
    """Stores other values under an adapter, so that a shared block or a lost name shows."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: dict[int, int] = {}
        self.orders: set[tuple[int, ...]] = set()

    def load_adapter(self, number: int, folder: Path) -> str:
        assert number not in self.loaded, "a number that is free"
        self.loaded[number] = int(folder.name)
        return folder.name

    def unload_adapter(self, number: int) -> None:
        del self.loaded[number]

    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        self.orders.add(tuple(-1 if part.adapter is None else part.adapter for part in step))
        return super().execute([self._adapted(part) for part in step])

    def _adapted(self, part: SequenceInput) -> SequenceInput:
        if part.adapter is None:
            return part
        change = self.loaded[part.adapter]
        return replace(part, tokens=[(token + change) % 256 for token in part.tokens])


def run(engine: Engine, *adapters: str, max_tokens: int = 12) -> list[list[int]]:
    requests = [
        replace(make_request(PROMPT, max_tokens=max_tokens), adapter=name) for name in adapters
    ]
    answers = {request.request_id: Answer() for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for event in engine.step():
            answers[event.request_id].events.append(event)
    return [answer.tokens for answer in answers.values()]


@pytest.fixture
def executor() -> AdaptedExecutor:
    return AdaptedExecutor()


@pytest.fixture
def engine(executor: AdaptedExecutor) -> Engine:
    engine = make_engine(executor)
    engine.load_adapter("one", Path("1"))
    engine.load_adapter("two", Path("2"))
    return engine


def test_each_request_gets_its_own_and_shares_no_block_with_another(engine: Engine) -> None:
    alone = [run(engine, name)[0] for name in ("", "one", "two")]
    assert len(set(map(tuple, alone))) == 3
    hits = engine.stats().cache_hit_tokens
    assert hits == 0  # equal prompts, and nothing of another's adapter was taken
    assert run(engine, "two", "", "one", "one") == [alone[2], alone[0], alone[1], alone[1]]
    assert engine.stats().cache_hit_tokens > hits  # but of one's own


def test_rows_of_an_adapter_lie_side_by_side(engine: Engine, executor: AdaptedExecutor) -> None:
    run(engine, "two", "", "one", "two", "", "one")
    assert (-1, -1, 0, 0, 1, 1) in executor.orders
    assert all(order == tuple(sorted(order)) for order in executor.orders)


def test_unloaded_adapter_serves_who_has_it_and_nobody_else(
    engine: Engine, executor: AdaptedExecutor
) -> None:
    whole = run(engine, "one")[0]
    request = replace(make_request(PROMPT, max_tokens=12), adapter="one")
    engine.add(request)
    answer = Answer(engine.step())
    engine.unload_adapter("one")
    assert set(executor.loaded.values()) == {1, 2}
    with pytest.raises(RequestError, match="no adapter is named 'one'; there is two"):
        run(engine, "one")
    engine.load_adapter("one", Path("3"))  # another of the same name is another
    while engine.has_work:
        answer.events += engine.step()
    assert answer.tokens == whole
    assert set(executor.loaded.values()) == {2, 3}
    assert run(engine, "one")[0] != whole


def test_cancelled_request_gives_its_adapter_back(
    engine: Engine, executor: AdaptedExecutor
) -> None:
    request = replace(make_request(PROMPT), adapter="one")
    engine.add(request)
    engine.unload_adapter("one")
    engine.cancel(request.request_id)
    assert set(executor.loaded.values()) == {2}


@pytest.mark.parametrize(
    ("name", "complaint"), [("one", "named 'one' is loaded already"), ("", "needs a name")]
)
def test_wrong_name_is_refused(engine: Engine, name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        engine.load_adapter(name, Path("4"))


def test_unknown_name_cannot_be_unloaded(engine: Engine) -> None:
    with pytest.raises(RequestError, match="no adapter is named 'x'; there is one, two"):
        engine.unload_adapter("x")


def test_engine_in_a_thread_loads_and_unloads_and_tells_why_not() -> None:
    async def test() -> None:
        local = LocalEngine(make_engine(AdaptedExecutor()))
        with pytest.raises(EngineError, match="the engine is stopped"):
            await local.load_adapter("one", Path("1"))
        await local.start()
        await local.load_adapter("one", Path("1"))
        with pytest.raises(ConfigError, match="named 'one' is loaded already"):
            await local.load_adapter("one", Path("2"))
        with pytest.raises(EngineError, match="ValueError"):  # of no kind that is ours
            await local.load_adapter("two", Path("x"))
        request = replace(make_request(PROMPT, max_tokens=4), adapter="one")
        events = [event async for event in local.generate(request)]
        assert events[-1].finish_reason == "length"
        await local.unload_adapter("one")
        with pytest.raises(RequestError, match="there is none"):
            await local.unload_adapter("one")
        await local.stop()

    asyncio.run(test())


def test_executor_without_adapters_says_what_to_do() -> None:
    with pytest.raises(UnsupportedError, match=r"native core alone: .* yearling merge"):
        make_engine().load_adapter("one", Path("1"))
