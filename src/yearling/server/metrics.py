"""Prometheus metrics: units in the names, one registry per server, gauges read when scraped."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from yearling.server.models import ServedModels
from yearling.serving.request import OutputEvent

__all__ = ["METRICS_MEDIA_TYPE", "Metrics", "ModelObserver"]

METRICS_MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_WAIT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_GAP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self, models: ServedModels) -> None:
        self.registry = CollectorRegistry()
        self.http_requests = Counter(
            "yearling_http_requests",
            "Answers by route, method and status.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self.requests = Counter(
            "yearling_requests",
            "Requests that ended, by why they did.",
            ("model", "finish_reason"),
            registry=self.registry,
        )
        self.prompt_tokens = self._count("prompt_tokens", "Prompt tokens of answered requests.")
        self.cached_tokens = self._count(
            "cached_prompt_tokens", "Those that came from the prefix cache."
        )
        self.generated_tokens = self._count("generated_tokens", "Tokens sent to clients.")
        self.embedded_inputs = self._count("embedded_inputs", "Texts turned into vectors.")
        self.first_token = Histogram(
            "yearling_time_to_first_token_seconds",
            "From admission to the first token.",
            ("model",),
            buckets=_WAIT_SECONDS,
            registry=self.registry,
        )
        self.token_gap = Histogram(
            "yearling_inter_token_seconds",
            "Between one token and the next of a request.",
            ("model",),
            buckets=_GAP_SECONDS,
            registry=self.registry,
        )
        self.registry.register(_EngineGauges(models))

    def _count(self, name: str, meaning: str) -> Counter:
        return Counter(f"yearling_{name}", meaning, ("model",), registry=self.registry)

    def observer(self, model: str) -> "ModelObserver":
        """Something that counts for one model."""
        return ModelObserver(self, model)

    def exposition(self) -> bytes:
        """Everything, as Prometheus reads it."""
        return generate_latest(self.registry)


class ModelObserver:
    """Counts what the generations of one model do."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._requests = metrics.requests
        self._model = model
        self._prompt_tokens = metrics.prompt_tokens.labels(model)
        self._cached_tokens = metrics.cached_tokens.labels(model)
        self._generated_tokens = metrics.generated_tokens.labels(model)
        self._first_token = metrics.first_token.labels(model)
        self._token_gap = metrics.token_gap.labels(model)

    def tokens_came(self, seconds: float, num_tokens: int, *, is_first: bool) -> None:
        """New tokens came this long after the request started or after the last ones."""
        self._generated_tokens.inc(num_tokens)
        if is_first:
            self._first_token.observe(seconds)
        else:
            self._token_gap.observe(seconds / num_tokens)

    def request_ended(self, event: OutputEvent | None, *, reason: str) -> None:
        """A request ended; the event is its last one when there was one."""
        self._requests.labels(self._model, reason).inc()
        if event is not None and event.usage is not None:
            self._prompt_tokens.inc(event.usage.prompt_tokens)
            self._cached_tokens.inc(event.usage.cached_tokens)


class _EngineGauges(Collector):
    """Reads the engines' own figures at the moment of the scrape."""

    def __init__(self, models: ServedModels) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        """One family per figure, one sample per model."""
        gauges = {
            "running_requests": "Requests that hold cache blocks.",
            "waiting_requests": "Requests queued in the engine.",
            "kv_blocks": "Cache blocks there are.",
            "kv_blocks_free": "Cache blocks in nobody's use.",
            "model_ready": "1 when the model can answer.",
        }
        counters = {
            "cache_query_tokens": "Prompt tokens looked for in the prefix cache.",
            "cache_hit_tokens": "Prompt tokens found there.",
            "preemptions": "Sequences thrown out for want of blocks.",
            "guessed_tokens": "Tokens that were guessed, and checked.",
            "accepted_tokens": "Guessed tokens that held.",
        }
        families: dict[str, GaugeMetricFamily | CounterMetricFamily] = {}
        for name, meaning in gauges.items():
            families[name] = GaugeMetricFamily(f"yearling_{name}", meaning, labels=["model"])
        for name, meaning in counters.items():
            families[name] = CounterMetricFamily(f"yearling_{name}", meaning, labels=["model"])
        for model in self._models:
            if model.base is not None:  # an adapter's engine is its base's
                continue
            stats = model.engine.stats()
            values = {
                "running_requests": stats.num_running,
                "waiting_requests": stats.num_waiting,
                "kv_blocks": stats.num_blocks,
                "kv_blocks_free": stats.num_free_blocks,
                "model_ready": int(model.engine.is_ready),
                "cache_query_tokens": stats.cache_query_tokens,
                "cache_hit_tokens": stats.cache_hit_tokens,
                "preemptions": stats.num_preemptions,
                "guessed_tokens": stats.guessed_tokens,
                "accepted_tokens": stats.accepted_tokens,
            }
            for name, value in values.items():
                families[name].add_metric([model.name], value)
        return families.values()
