"""Model files behind one face: canonical tensor names, a spec, a tokenizer, a template."""

from pathlib import Path

from yearling.models.checkpoint.checkpoint import Checkpoint
from yearling.models.checkpoint.formats import StoredTensor

__all__ = ["Checkpoint", "StoredTensor", "open_checkpoint"]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a Hugging Face folder; only headers are read.

    Raises:
        ModelFormatError: the files are malformed, or of an architecture no family covers.
        ModelNotFoundError: nothing is there.
    """
    # Imported here: the readers need the families, and those need this package's formats.
    from yearling.models.checkpoint.folder_checkpoint import FolderCheckpoint
    from yearling.models.checkpoint.gguf_checkpoint import GgufCheckpoint

    return FolderCheckpoint(path) if path.is_dir() else GgufCheckpoint(path)
