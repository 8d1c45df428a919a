"""Makes the peers' files from the model's GGUF; runs in the peers' environment.

    python -m benchmarks.serving.prepare MODEL.gguf FOLDER

writes `FOLDER/MODEL.Q4_0.gguf` (llama.cpp's repacked fast path; the token embedding and the norms
stay as shipped) and `FOLDER/float32/` (de-quantised, as transformers reads it). What exists is
kept: a part is written beside and renamed when complete.
"""

import shutil
import sys
from pathlib import Path

__all__ = ["float32_folder", "prepare", "requantised_file"]


def requantised_file(model: Path, folder: Path) -> Path:
    """Name the Q4_0 file that belongs to a model."""
    return folder / f"{model.stem}.requantised.Q4_0.gguf"


def float32_folder(model: Path, folder: Path) -> Path:
    """Name the Hugging Face folder that belongs to a model."""
    return folder / f"{model.stem}.float32"


def prepare(model: Path, folder: Path) -> None:
    """Write what is missing of both."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (target := requantised_file(model, folder)).exists():
        _requantise(model, target)
    if not (target := float32_folder(model, folder)).exists():
        _dequantise(model, target)


def _requantise(model: Path, target: Path) -> None:
    """Turn every Q4_1 tensor into Q4_0; anything else is copied byte for byte."""
    import gguf

    reader = gguf.GGUFReader(model)
    part = target.with_suffix(".part")
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(part, architecture)
    _copy_metadata(reader, writer)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind == gguf.GGMLQuantizationType.Q4_1:
            kind = gguf.GGMLQuantizationType.Q4_0
            data = gguf.quants.quantize(gguf.quants.dequantize(data, tensor.tensor_type), kind)
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    part.rename(target)


def _copy_metadata(reader: "gguf.GGUFReader", writer: "gguf.GGUFWriter") -> None:  # type: ignore[name-defined]  # noqa: F821
    import gguf

    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        value = field.contents()
        if name == "general.file_type":
            value = int(gguf.LlamaFileType.MOSTLY_Q4_0)
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        writer.add_key_value(
            name, value, field.types[0], sub_type=field.types[-1] if is_array else None
        )


def _dequantise(model: Path, target: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(
        model.parent, gguf_file=model.name, dtype=torch.float32
    )
    # save_pretrained refuses a model that came from GGUF, de-quantised or not.
    part = target.with_suffix(".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    del loaded.config.quantization_config
    loaded.config.save_pretrained(part)
    save_file(dict(loaded.named_parameters()), part / "model.safetensors", {"format": "pt"})
    part.rename(target)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]), Path(sys.argv[2]))
