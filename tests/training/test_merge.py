"""An adapter merged into its base: the same logits, a served model, a linked record."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from tests.models.converted_models import add_byte_level_tokenizer, llama_folder
from tests.models.tiny_files import tiny_gguf, write_folder
from yearling.core.errors import ConfigError, ModelFormatError
from yearling.core.lineage import LineageLedger
from yearling.models.checkpoint import open_checkpoint
from yearling.models.export_check import spec_differences
from yearling.models.folder_files import put_template
from yearling.models.torch_decoder import load_torch_decoder
from yearling.serving.llm import LLM
from yearling.serving.model import load_model
from yearling.serving.request import SamplingParams
from yearling.training.adapters import adapters
from yearling.training.context import (
    CONTEXT_FILE,
    ContextConfig,
    configuration_with,
    extend_context,
    read_adapter_context,
    write_adapter_context,
)
from yearling.training.merge import merge, record_step
from yearling.training.peft_folder import read_peft_folder, write_peft_folder
from yearling.training.run_card import RunCard, find_record, write_run_card

LORA = adapters.get("lora")


@pytest.fixture
def base(tmp_home: Path, tmp_path: Path) -> Path:
    path = tmp_path / "base.gguf"
    path.write_bytes(tiny_gguf())
    return path


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return save_adapter(base, tmp_path / "adapter")


def save_adapter(
    base: Path,
    folder: Path,
    kind: str = "lora",
    context: ContextConfig | None = None,
    **options: object,
) -> Path:
    """An adapter that learned something random, perhaps with stretched positions."""
    entry = adapters.get(kind)
    checkpoint = open_checkpoint(base)
    spec = checkpoint.spec if context is None else extend_context(checkpoint.spec, context)
    decoder = load_torch_decoder(checkpoint, spec=spec)
    config = entry.config(**options)
    entry.attach(decoder, config, 1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in decoder.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    entry.save(decoder, config, folder, str(base))
    if context is not None:
        write_adapter_context(folder, checkpoint, context)
    return folder


@pytest.mark.parametrize(
    ("target", "wanted"), [("merged", None), ("merged", "BF16"), ("merged.gguf", "F16")]
)
def test_merged_model_is_the_base_with_its_adapter(
    base: Path, adapter: Path, tmp_path: Path, target: str, wanted: str | None
) -> None:
    report = merge(adapter, base, tmp_path / target, wanted)
    assert report.is_within_tolerance
    assert report.change.typical > 20 * report.logits.typical
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(
        {"adapter", "base.gguf", "yearling-home", target}
    )


def test_merged_model_is_served_and_answers_differently(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "strong", alpha=2_000.0)
    merge(adapter, base, tmp_path / "merged")
    prompts = [[0, 1], [1, 2, 3], [2, 2], [3, 1, 0, 1]]
    answers = []
    for path in (base, tmp_path / "merged"):
        with LLM(path, weights="float32") as llm:
            assert llm.tokenize("ab") == [3]
            answers.append([np.argmax(llm.logits(ids), axis=-1).tolist() for ids in prompts])
    assert answers[0] != answers[1]
    template = open_checkpoint(tmp_path / "merged").chat_template()
    assert template is not None
    assert template.source == "{{ messages[0].content }}"
    assert (tmp_path / "merged/chat_template.jinja").is_file()
    stored = json.loads((tmp_path / "merged/tokenizer_config.json").read_text())
    assert stored["chat_template"] == template.source


def test_adapter_whose_start_changed_the_base_is_refused(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**settings, "init_lora_weights": "pissa_niter_4"})
    )
    with pytest.raises(ModelFormatError, match="'pissa_niter_4' changes the base's weights"):
        merge(adapter, base, tmp_path / "merged")


def test_adapter_is_served_without_merging_as_it_is_merged(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "strong", alpha=200.0)
    merge(adapter, base, tmp_path / "merged")
    ids, sampling = [3, 1, 0, 1, 2, 2, 3, 0], SamplingParams(max_tokens=1, prompt_logprobs=0)

    def scores(llm: LLM, name: str = "") -> list[float]:
        score = llm.generate(ids, sampling, adapter=name).prompt_score
        assert score is not None
        return [token.logprob for token in score.tokens if token is not None]

    with LLM(base, weights="float32") as beside, LLM(tmp_path / "merged") as merged:
        beside.load_adapter("strong", adapter)
        np.testing.assert_allclose(scores(beside, "strong"), scores(merged), atol=2e-4)
        assert np.abs(np.subtract(scores(beside), scores(merged))).max() > 0.05


def test_embeddings_and_norms_of_the_adapter_are_merged(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "whole", "longlora")
    report = merge(adapter, base, tmp_path / "merged")
    assert report.is_within_tolerance
    assert "lm_head" in read_peft_folder(adapter).settings["modules_to_save"]


@pytest.mark.parametrize(
    ("method", "target"),
    [
        *((method, "merged") for method in ("linear", "ntk", "base", "yarn", "power", "truncated")),
        *((method, "merged.gguf") for method in ("linear", "ntk", "base", "yarn")),
    ],
)
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_merged_model_has_the_positions_of_training(
    base: Path, tmp_path: Path, layout: str, method: Any, target: str
) -> None:
    if layout == "folder":  # as transformers 5 writes it; its older keys would contradict this
        base = llama_folder(
            tmp_path / "base",
            hidden_size=32,
            intermediate_size=64,
            vocab_size=320,
            rope_parameters={"rope_theta": 20_000.0, "rope_type": "default"},
        )
        add_byte_level_tokenizer(base)
    context = ContextConfig(tokens=256, method=method)
    adapter = save_adapter(base, tmp_path / "long", "longlora", context)
    wanted = extend_context(open_checkpoint(base).spec, context)
    report = merge(adapter, base, tmp_path / target)
    assert report.is_within_tolerance
    assert not spec_differences(wanted, open_checkpoint(tmp_path / target).spec)


@pytest.mark.parametrize("method", ["power", "truncated"])
def test_positions_that_the_target_cannot_say_are_refused(
    base: Path, tmp_path: Path, method: Any
) -> None:
    context = ContextConfig(tokens=256, method=method)
    adapter = save_adapter(base, tmp_path / "long", context=context)
    with pytest.raises(ModelFormatError, match=f"GGUF has no place for .*{method}"):
        merge(adapter, base, tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()


def test_family_that_is_not_written_is_refused_with_stretched_positions(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = open_checkpoint(base)
    unwritten = replace(checkpoint.family, config_from_spec=None)
    monkeypatch.setattr(checkpoint, "family", unwritten)
    context = ContextConfig(tokens=256)
    write_adapter_context(tmp_path, checkpoint, context)
    assert (saved := read_adapter_context(tmp_path)) is not None
    assert saved.config == {}
    with pytest.raises(ModelFormatError, match="llama are not written to folders yet"):
        configuration_with(checkpoint, extend_context(checkpoint.spec, context))


def test_base_of_another_context_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "long", context=ContextConfig(tokens=256))
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny_gguf({"llama.context_length": 128}))
    with pytest.raises(ModelFormatError, match=r"base of 64 tokens, stretched to 256; .* has 128"):
        merge(adapter, other, tmp_path / "merged")
    (adapter / CONTEXT_FILE).write_text('{"context": {"tokens": 256}}')
    with pytest.raises(ModelFormatError, match="does not say an adapter's context"):
        merge(adapter, base, tmp_path / "merged")


@pytest.mark.parametrize("target", ["merged", "merged.gguf"])
def test_merged_model_is_asked_as_its_adapter_was_trained(
    base: Path, adapter: Path, tmp_path: Path, target: str, caplog: pytest.LogCaptureFixture
) -> None:
    (adapter / "chat_template.jinja").write_text("{{ messages[-1].content }}!")
    values = {"method": "sft", "base": {"name": "base", "hashes": {}}, "data": {}, "seed": 0}
    rest = {"template_hash": "t" * 64, "configuration": {}, "scores": {}}
    write_run_card(tmp_path, adapter, RunCard.model_validate({**values, **rest}))
    report = merge(adapter, base, tmp_path / target)
    template = load_model(tmp_path / target).chat_template
    assert template is not None
    assert template.source == "{{ messages[-1].content }}!"
    assert not caplog.records
    if target == "merged":
        assert find_record(str(tmp_path / target), LineageLedger()) == report.record
        put_template(tmp_path / target, "{{ messages[0].content }}")
        load_model(tmp_path / target)
        (record,) = caplog.records
        assert "was trained with chat template" in record.getMessage()


def test_wrong_result_is_noticed(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yearling.training import merge as module

    def forget(decoder: torch.nn.Module) -> None:
        """Take the adapter out without adding it."""
        for name, layer in list(module.lora_layers(decoder)):  # type: ignore[attr-defined]
            parent, _, leaf = name.rpartition(".")
            setattr(decoder.get_submodule(parent), leaf, layer.get_base_layer())

    from yearling.training.lora_layers import lora_layers

    monkeypatch.setattr(module, "lora_layers", lora_layers, raising=False)
    monkeypatch.setattr(module, "merge_low_rank", forget)
    assert not merge(adapter, base, tmp_path / "merged").is_within_tolerance


def test_record_is_linked_to_what_made_the_adapter(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    made = record_step("train", adapter, [base])
    report = merge(adapter, base, tmp_path / "merged")
    steps = [record.step for record in LineageLedger().ancestry(report.record)]
    assert steps == ["merge", "train"]
    assert LineageLedger().read(report.record).parents == (made,)


def test_adapter_of_another_model_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    saved = read_peft_folder(adapter)
    other = {k.replace("q_proj", "w_proj"): v for k, v in saved.tensors.items()}
    write_peft_folder(tmp_path / "other", saved.settings, other)
    with pytest.raises(ModelFormatError, match=r"adapter of another model: .*w_proj"):
        merge(tmp_path / "other", base, tmp_path / "merged")
    with pytest.raises(ConfigError, match="exists already"):
        merge(adapter, base, base)


def test_setting_that_is_not_read_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    saved = read_peft_folder(adapter)
    write_peft_folder(tmp_path / "dora", {**saved.settings, "use_dora": True}, saved.tensors)
    with pytest.raises(ModelFormatError, match="use_dora=True is not read here"):
        merge(tmp_path / "dora", base, tmp_path / "merged")


def test_command_says_what_it_did(base: Path, adapter: Path, tmp_path: Path) -> None:
    import typer

    from yearling.cli.merge import merge as command

    app = typer.Typer()
    app.command()(command)
    result = CliRunner().invoke(app, [str(adapter), str(tmp_path / "merged")])
    assert result.exit_code == 0, result.output
    assert "0.001 allowed" in result.output
    strict = ["--base", str(base), "--tolerance", "0", str(adapter), str(tmp_path / "again")]
    result = CliRunner().invoke(app, strict)
    assert result.exit_code == 1
    assert "differs by more than the tolerance of 0" in result.output


def test_folder_is_a_base_as_well(tmp_home: Path, tmp_path: Path) -> None:
    base = write_folder(tmp_path / "base")
    adapter = save_adapter(base, tmp_path / "adapter", targets=("query", "down_proj"))
    assert merge(adapter, base, tmp_path / "merged").is_within_tolerance
