"""`yearling parity`: the same token ids in training, serving and transformers."""

from typing import Annotated

import typer

__all__ = ["parity"]


def parity(
    model: Annotated[str, typer.Argument(help="Store name, GGUF file or folder.")] = "smollm2",
    chat_template: Annotated[
        str | None, typer.Option(help="Name of a chat template, or a .jinja file. [the model's]")
    ] = None,
) -> None:
    """Compare the prompts that conversations become; exit status 1 where two differ."""
    from yearling.cli.progress import download_bar
    from yearling.evaluation.prompt_parity import CONVERSATIONS, compare_prompts
    from yearling.models.store import ensure

    with download_bar(model) as progress:
        ensure(model, progress)
    comparisons = compare_prompts(model, chat_template)
    width = max(map(len, CONVERSATIONS))
    for comparison in comparisons:
        if comparison.is_same:
            count = f"{len(next(iter(comparison.ids.values())))} tokens, " if comparison.ids else ""
            said = f"{count}the same" if comparison.ids else "refused by all"
            if "transformers" not in comparison.ids and comparison.ids:
                said += " in training and serving; transformers would obey them"
        else:
            said = comparison.difference()
        typer.echo(f"{comparison.name:<{width}}  {said}")
    num_same = sum(comparison.is_same for comparison in comparisons)
    typer.echo(f"{num_same} of {len(comparisons)} the same")
    if num_same < len(comparisons):
        raise typer.Exit(1)
