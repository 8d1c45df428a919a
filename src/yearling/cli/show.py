"""`yearling show`: what a model is, and what it would take to run it."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from yearling.cli.sizes import size_text

if TYPE_CHECKING:
    from yearling.models.cache_layout import CacheGroup
    from yearling.models.plan import Fit, MemoryPlan
    from yearling.models.presets import Preset
    from yearling.models.spec import ModelSpec

__all__ = ["show"]


def show(
    name: Annotated[
        str,
        typer.Argument(
            help="Store name, path of a GGUF file or checkpoint folder, or a published size "
            "such as llama-2-70b."
        ),
    ],
    plan: Annotated[
        bool, typer.Option("--plan", help="Parameters, bytes, and what fits; reads no weights.")
    ] = False,
    context: Annotated[
        int | None, typer.Option(min=1, help="Tokens per sequence to plan for. [the model's]")
    ] = None,
    sequences: Annotated[
        int | None, typer.Option(min=1, help="Sequences side by side to plan for. [1]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a model is, or with --plan what it takes and what fits on this machine."""
    if not plan and (context is not None or sequences is not None):
        raise typer.BadParameter("--context and --sequences belong to --plan.")
    spec, facts = _find(name, measures_files=not plan)
    planned = _plan(spec, context, sequences) if plan else None
    if as_json:
        typer.echo(json.dumps(_json(facts, planned), indent=1))
        return
    for label, value in facts.items():
        typer.echo(f"{label:11} {_fact_text(label, value)}")
    for line in _lines(planned) if planned is not None else ():
        typer.echo(line)


def _find(name: str, *, measures_files: bool) -> "tuple[ModelSpec, dict[str, Any]]":
    """Look in the store, then on the disk, then among the published sizes."""
    from yearling.core.errors import ModelNotFoundError
    from yearling.models import presets, store

    try:
        path = store.resolve(name)
    except ModelNotFoundError as error:
        try:
            preset = presets.find_preset(name)
        except ModelNotFoundError:
            near = " or ".join(presets.nearest_presets(name))
            hint = f" Among published sizes, did you mean {near}?" if near else ""
            raise ModelNotFoundError(f"{error}{hint}") from error
        return preset.spec, _preset_facts(preset)
    if measures_files:
        model = store.describe(name)
        files = {
            "size": model.size_bytes,
            "sha256": model.sha256,
            "licence": model.licence,
            "source": model.source,
        }
        return model.spec, {"name": name, "path": str(path), **files, **_network(model.spec)}
    from yearling.models.checkpoint import open_checkpoint

    spec = open_checkpoint(path).spec
    return spec, {"name": name, "path": str(path), **_network(spec)}


def _preset_facts(preset: "Preset") -> dict[str, Any]:
    facts = {
        "name": preset.name,
        "path": "a published size: its weights are not here",
        "source": preset.source,
        **_network(preset.spec),
        "published": preset.rounded if preset.parameters is None else preset.parameters,
    }
    return {**facts, "note": preset.note} if preset.note else facts


def _network(spec: "ModelSpec") -> dict[str, Any]:
    return {
        "family": spec.family,
        "layers": len(spec.layers),
        "width": spec.width,
        "vocabulary": spec.vocabulary,
        "context": spec.context,
    }


def _fact_text(label: str, value: Any) -> str:
    match label:
        case "size":
            return size_text(value)
        case "context":
            return f"{value} tokens"
        case "published":
            return f"{value:,} parameters" if isinstance(value, int) else f"{value} parameters"
    return str(value)


def _plan(spec: "ModelSpec", context: int | None, sequences: int | None) -> "MemoryPlan":
    from yearling.core.memory import available_bytes
    from yearling.models.plan import plan_memory

    return plan_memory(spec, available_bytes(), context=context, sequences=sequences or 1)


def _json(facts: Mapping[str, Any], plan: "MemoryPlan | None") -> dict[str, Any]:
    from dataclasses import asdict

    return {**facts, **({} if plan is None else {"plan": asdict(plan)})}


def _lines(plan: "MemoryPlan") -> Iterator[str]:
    yield from _parameter_lines(plan)
    yield ""
    for group in plan.cache:
        yield f"{'cache':11} {_group_text(group)}"
    if not plan.cache:
        yield f"{'cache':11} none: an encoder"
    gguf = [f"{name} {size_text(size)}" for name, size in plan.gguf_bytes.items()]
    yield f"{'GGUF':11} {', '.join(gguf[:4])},"
    yield f"{'':11} {', '.join(gguf[4:])}"
    yield ""
    asked = f"{plan.sequences} × {plan.context:,} TOKENS"
    free = f"HERE ({size_text(plan.available_bytes)} FREE)"
    yield f"{'WEIGHTS':8} {'PACKED':>9}  {'CACHE OF ' + asked:>26}  {'NEEDED':>9}  {free}"
    for fit in plan.fits:
        cache = f"{size_text(fit.cache_bytes)} {fit.cache_type}"
        packed, needed = size_text(fit.weight_bytes), size_text(fit.needed_bytes)
        yield f"{fit.weights:8} {packed:>9}  {cache:>26}  {needed:>9}  {_verdict(plan, fit)}"


def _parameter_lines(plan: "MemoryPlan") -> Iterator[str]:
    counts = plan.parameters
    width = len(f"{counts.total:,}")
    yield f"{'parameters':11} {counts.total:,}"
    tied = "" if counts.head or not plan.cache else ", tied to the embedding"
    rows = [("embedding", counts.embedding, ""), ("head", counts.head, tied)]
    rows += [("a layer", size, f" × {many}") for size, many in Counter(counts.layers).items()]
    rows += [("active", counts.active, " for a token")] if counts.active < counts.total else []
    for label, count, rest in rows:
        yield f"  {label:9} {count:>{width},}{rest}"


def _group_text(group: "CacheGroup") -> str:
    from yearling.models.plan import CACHE_TYPES

    layers = f"{group.num_layers} layers"
    if group.kind == "state":
        return f"{layers} with one state: {size_text(4 * group.slot_floats)} a sequence"
    sizes = [f"{size_text(group.token_floats * size)} {name}" for name, size in CACHE_TYPES.items()]
    kept = "every token" if group.window is None else f"the last {group.window:,} tokens"
    return f"{layers} keep {kept}: {' or '.join(sizes)} a token"


def _verdict(plan: "MemoryPlan", fit: "Fit") -> str:
    if fit.tokens >= plan.context:
        return "fits"
    short = size_text(fit.needed_bytes - plan.available_bytes)
    if fit.tokens:
        each = " each" if plan.sequences > 1 else ""
        return f"fits with {fit.tokens:,} tokens of cache{each}; {short} short of all"
    return f"no: {short} short"
