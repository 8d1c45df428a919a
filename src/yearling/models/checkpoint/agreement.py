"""Whether a file's tensors and tokens are those its settings call for."""

from collections.abc import Collection, Mapping

from yearling.core.errors import ModelFormatError

__all__ = ["check_tensors", "check_vocabulary"]


def check_tensors(
    label: str,
    wanted: Mapping[str, tuple[int, ...]],
    found: Mapping[str, tuple[int, ...]],
    ignored: Collection[str],
) -> None:
    """Compare names and shapes.

    Args:
        label: The file, for messages.
        wanted: Shape of every tensor the spec calls for, by its name in the file.
        found: Shape of every tensor in the file.
        ignored: Ends of names that may be there and are not read.
    Raises:
        ModelFormatError: a tensor is missing, has another shape, or is not expected.
    """
    if missing := [name for name in wanted if name not in found]:
        raise ModelFormatError(
            f"{label}: {len(missing)} of {len(wanted)} tensors are missing, among them "
            f"{', '.join(missing[:3])}."
        )
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ModelFormatError(
                f"{label}: tensor {name} has shape {found[name]}, but its settings call for "
                f"{shape}."
            )
    extra = [name for name in found if name not in wanted and not name.endswith(tuple(ignored))]
    if extra:
        raise ModelFormatError(
            f"{label}: {len(extra)} tensors have no place in this family, among them "
            f"{', '.join(extra[:3])}."
        )


def check_vocabulary(label: str, tokens: int, rows: int) -> None:
    """Compare the tokenizer's size with the embedding, which may be padded beyond it.

    Raises:
        ModelFormatError: a token would have no row.
    """
    if tokens > rows:
        raise ModelFormatError(
            f"{label}: the tokenizer has {tokens} tokens, but the embedding has {rows} rows; "
            "tokenizer and weights belong to different models."
        )
