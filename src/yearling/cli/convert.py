"""`yearling convert`: between Hugging Face folders and GGUF files."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from yearling.serving.conversion import ConversionReport

__all__ = ["Format", "convert"]


class Format(StrEnum):
    """Formats that models are written in."""

    F32 = "F32"
    F16 = "F16"
    BF16 = "BF16"
    Q8_0 = "Q8_0"
    Q6_K = "Q6_K"
    Q5_1 = "Q5_1"
    Q5_0 = "Q5_0"
    Q4_K = "Q4_K"
    Q4_1 = "Q4_1"
    Q4_0 = "Q4_0"


def convert(
    source: Annotated[
        str, typer.Argument(help="Store name, path of a GGUF file, or of a checkpoint folder.")
    ],
    target: Annotated[
        Path, typer.Argument(help="A name that ends in .gguf becomes a file, another a folder.")
    ],
    wanted: Annotated[
        Format | None,
        typer.Option(
            "--format",
            case_sensitive=False,
            help="Format of the matrices; by default what the source has. Folders hold F32, F16 "
            "or BF16.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Most that logits may differ, in standard deviations of the source's.",
            show_default="by format; 0.0001 where no number changes",
        ),
    ] = None,
    has_logits: Annotated[
        bool, typer.Option("--logits/--no-logits", help="Run both models and compare them.")
    ] = True,
) -> None:
    """Convert a model, load the result back and prove that it is the same."""
    from yearling.models import store
    from yearling.serving.conversion import convert_with_proof

    store.ensure(source)
    report = convert_with_proof(
        store.resolve(source),
        target,
        None if wanted is None else wanted.value,
        tolerance=tolerance,
        has_logits=has_logits,
    )
    _print(report)
    if not report.is_within_tolerance:
        typer.echo(
            f"error: {target} differs by more than the tolerance of {report.tolerance:g} standard "
            "deviations. The files are kept; see docs/models.md for what each format costs.",
            err=True,
        )
        raise typer.Exit(1)


def _print(report: "ConversionReport") -> None:
    for change in report.changes:
        typer.echo(str(change))
    if (logits := report.logits) is not None:
        typer.echo(
            f"logits: worst difference {logits.worst:.3g}, typical "
            f"{logits.typical / (logits.spread or 1.0):.2g} standard deviations, "
            f"{report.tolerance:g} allowed"
        )
    typer.echo(f"wrote {report.target}, lineage {report.record[:12]}")
