"""`yearling merge`: an adapter or a weight delta and its base become one model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yearling.cli.convert import Format

if TYPE_CHECKING:
    from yearling.training.merge import MergeReport

__all__ = ["merge"]


def merge(
    adapter: Annotated[
        Path, typer.Argument(help="Folder of an adapter in PEFT's format, or of a weight delta.")
    ],
    output: Annotated[
        Path, typer.Argument(help="A name that ends in .gguf becomes a file, another a folder.")
    ],
    base: Annotated[
        str | None,
        typer.Option(
            help="Store name or path of the base.", show_default="the one that the adapter names"
        ),
    ] = None,
    wanted: Annotated[
        Format | None,
        typer.Option(
            "--format",
            case_sensitive=False,
            help="Format of the matrices. Folders hold F32, F16 or BF16.",
            show_default="F32",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Most that logits may differ from those with the adapter beside the base, in "
            "standard deviations.",
            show_default="by format",
        ),
    ] = None,
    is_making_delta: Annotated[
        bool,
        typer.Option(
            "--make-delta",
            help="The other way round: ADAPTER is a tuned model's folder, OUTPUT becomes what it "
            "has beyond the base.",
        ),
    ] = False,
) -> None:
    """Merge an adapter into its base, load the result back and prove that it is the same."""
    from yearling.core.errors import ConfigError
    from yearling.training.weight_delta import is_delta

    name = None if wanted is None else wanted.value
    if is_making_delta or is_delta(adapter):
        if name is not None or tolerance is not None:
            raise ConfigError("--format and --tolerance are for adapters; a delta has its own.")
        _merge_delta(adapter, _base(base), output, is_making=is_making_delta)
        return
    from yearling.training import merge as merging

    source = _base(base or _named_base(adapter))
    report = merging.merge(adapter, source, output, name, tolerance=tolerance)
    _print(report)
    if not report.is_within_tolerance:
        typer.echo(
            f"error: {output} differs by more than the tolerance of {report.tolerance:g} standard "
            "deviations. The files are kept.",
            err=True,
        )
        raise typer.Exit(1)


def _named_base(adapter: Path) -> str | None:
    from yearling.training.peft_folder import read_peft_folder

    return read_peft_folder(adapter).base


def _base(name: str | None) -> Path:
    from yearling.core.errors import ConfigError
    from yearling.models import store

    if name is None:
        raise ConfigError("nothing says which base this belongs to; name it with --base.")
    store.ensure(name)
    return store.resolve(name)


def _merge_delta(source: Path, base: Path, output: Path, *, is_making: bool) -> None:
    from yearling.training.merge import record_step
    from yearling.training.weight_delta import apply_delta, make_delta

    if is_making:
        make_delta(base, source, output)
        typer.echo("wrote the tuned model's weights less the base's")
    else:
        is_exact = apply_delta(source, base, output)
        exactly = "to the bit" if is_exact else "but for the last bit of sums in float32"
        typer.echo(f"the result is the tuned model {exactly}")
    record = record_step("delta" if is_making else "merge", output, (source, base))
    typer.echo(f"wrote {output}, lineage {record[:12]}")


def _print(report: "MergeReport") -> None:
    spread = report.logits.spread or 1.0
    typer.echo(
        f"logits: worst difference {report.logits.worst:.3g}, typical "
        f"{report.logits.typical / spread:.2g} standard deviations, {report.tolerance:g} allowed"
    )
    typer.echo(f"the adapter itself changes {report.change.typical / spread:.2g}")
    typer.echo(f"wrote {report.target}, lineage {report.record[:12]}")
