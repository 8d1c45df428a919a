"""`yearling doctor`: what this machine has, what is wrong, and how to put it right."""

import typer

__all__ = ["doctor"]

_MARKS = {"good": "ok     ", "warning": "warning", "bad": "WRONG  "}


def doctor() -> None:
    """Check this machine and installation; the block to paste into a report of a fault."""
    from yearling.server.diagnosis import diagnose

    findings = diagnose()
    for finding in findings:
        typer.echo(f"{_MARKS[finding.verdict]}  {finding.subject:12}  {finding.what}")
        if finding.remedy:
            typer.echo(f"{'':9}{'':14}→ {finding.remedy}")
    if any(finding.verdict == "bad" for finding in findings):
        raise typer.Exit(1)
