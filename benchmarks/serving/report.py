"""A run as a table for people and as JSON for scripts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.serving.machine import Machine
from benchmarks.serving.metrics import METRICS, Summary, best_of, ratio
from benchmarks.serving.neighbour import NeighbourFigures

__all__ = ["OURS", "Report"]

OURS = "yearling"


@dataclass(frozen=True, slots=True)
class Report:
    """Everything one run printed.

    Attributes:
        summaries: Engine, then metric. `llama.cpp/Q4_1`, `llama.cpp/Q4_0` and the like are
            forms of one peer, `llama.cpp`, whose best figure counts metric by metric.
        descriptions: Configuration by engine.
        weight_bytes: Bytes of weights one decoded token reads.
        multiplies: Weights of the linear layers a prompt token passes, the head left out.
        warnings: What makes the figures doubtful.
        neighbour: One stream beside a busy process, by engine.
    """

    summaries: Mapping[str, Mapping[str, Summary]]
    descriptions: Mapping[str, str]
    machine: Machine
    weight_bytes: int
    multiplies: int
    warnings: Sequence[str] = ()
    neighbour: Mapping[str, NeighbourFigures] = field(default_factory=dict)

    def medians(self) -> dict[str, dict[str, float]]:
        """Medians by engine and metric, and by peer where a peer ran in several forms."""
        engines = {
            name: {metric: by_metric[metric].median for metric in METRICS if metric in by_metric}
            for name, by_metric in self.summaries.items()
        }
        forms: dict[str, list[dict[str, float]]] = {}
        for name, figures in engines.items():
            if "/" in name:
                forms.setdefault(name.partition("/")[0], []).append(figures)
        for peer, alternatives in forms.items():
            engines[peer] = {
                metric: best_of(metric, [figures[metric] for figures in given])
                for metric in METRICS
                if (given := [figures for figures in alternatives if metric in figures])
            }
        return engines

    def ratios(self) -> dict[str, dict[str, float]]:
        """Ours against each peer by metric; above 1 means ours is better."""
        medians = self.medians()
        peers = [name for name in medians if name != OURS and "/" not in name]
        return {
            metric: {
                peer: ratio(metric, ours, medians[peer][metric])
                for peer in peers
                if metric in medians[peer]
            }
            for metric, ours in medians[OURS].items()
        }

    def shares(self) -> dict[str, float | None]:
        """Share of the machine's limits that ours reaches."""
        ours = self.medians()[OURS]
        return {
            "decode_1_of_bandwidth": self.machine.roofline_share(
                ours["decode_1"], weight_bytes=self.weight_bytes
            ),
            "prefill_1000_of_int8": self.machine.arithmetic_share(
                ours["prefill_1000"], multiplies=self.multiplies
            ),
        }

    def as_json(self) -> dict[str, Any]:
        """Give the documented form: `results`, `ratios`, and what explains them."""
        return {
            "results": self.medians(),
            "ratios": self.ratios(),
            "spread": {
                name: {metric: asdict(summary) for metric, summary in by_metric.items()}
                for name, by_metric in self.summaries.items()
            },
            "units": {metric.name: metric.unit for metric in METRICS.values()},
            "machine": {**asdict(self.machine), "shares": self.shares()},
            "configurations": dict(self.descriptions),
            "neighbour": {
                name: {
                    **asdict(figures),
                    "unpinned_share": figures.unpinned_share,
                    "pinned_share": figures.pinned_share,
                }
                for name, figures in self.neighbour.items()
            },
            "warnings": list(self.warnings),
        }

    def as_text(self) -> str:
        """Give the tables as plain text."""
        parts = [self._figures(), self._ratios(), self._machine()]
        if self.neighbour:
            parts.append(self._neighbour())
        parts.append("\n".join(f"{name}: {text}" for name, text in self.descriptions.items()))
        parts.extend(f"WARNING: {warning}" for warning in self.warnings)
        return "\n\n".join(parts)

    def _figures(self) -> str:
        rows = [["metric", "unit", *self.summaries]]
        for metric in METRICS.values():
            cells = [_cell(figures.get(metric.name)) for figures in self.summaries.values()]
            rows.append([metric.name, metric.unit, *cells])
        return "Medians (± half the distance of the extremes)\n" + _table(rows)

    def _ratios(self) -> str:
        ratios = self.ratios()
        peers = list(ratios["decode_1"])
        if not peers:
            return "No peers were asked for (--peers)."
        rows = [["ours / peer", *peers, "worst"]]
        for metric, by_peer in ratios.items():
            cells = [f"{by_peer[peer]:.2f}" for peer in peers]
            rows.append([metric, *cells, f"{min(by_peer.values()):.2f}"])
        return "Ratios (above 1: ours is better)\n" + _table(rows)

    def _machine(self) -> str:
        machine = self.machine
        lines = [f"{machine.processor}, {machine.cores} cores"]
        if machine.bandwidth_gb_per_s is not None:
            lines.append(f"streaming read {machine.bandwidth_gb_per_s:.1f} GB/s")
        if machine.int8_gops is not None:
            lines.append(f"int8 {machine.int8_gops:.0f} Gop/s")
        for name, share in self.shares().items():
            if share is not None:
                lines.append(f"{name} {share:.0%}")
        if machine.note:
            lines.append(machine.note)
        return "Machine: " + "; ".join(lines)

    def _neighbour(self) -> str:
        rows = [["one stream beside a busy process", "quiet", "unpinned", "pinned to core 0"]]
        for name, figures in self.neighbour.items():
            rows.append(
                [
                    name,
                    f"{figures.quiet:.1f}",
                    f"{figures.unpinned:.1f} ({figures.unpinned_share:.0%})",
                    f"{figures.pinned:.1f} ({figures.pinned_share:.0%})",
                ]
            )
        return _table(rows)


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    digits = 1 if summary.median >= 10 else 3
    return f"{summary.median:.{digits}f} ±{summary.spread / 2:.0%}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
