"""Folders that were moved, mixed up, written by other versions, or that lack a file: read rightly, or refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from surgvivqa.auto import SurgViVQAModel
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.saving import export_pth, save_adapters, save_checkpoint
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import InputError
from tests.helpers.parts import add_decoder, config, make_parts, randomize_trainable, settings


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_parts(tmp_path_factory.mktemp("parts") / "ä b")  # a path with a space and a letter of its own
    add_decoder(root, "llama")
    return root


def trained(parts: Path, kind: str = "gpt2", **flags: object) -> ModelBundle:
    bundle = build_for_training(config(parts, kind, **flags))
    randomize_trainable(bundle.model)
    return bundle


def same(one: ModelBundle, other: ModelBundle) -> None:
    theirs = other.model.state_dict()
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, theirs[name]), name


def test_another_file_in_a_checkpoint_folder_is_refused(parts: Path, tmp_path: Path) -> None:
    save_checkpoint(trained(parts, lora_r=4), tmp_path / "best")
    export_pth(trained(parts, lora_r=2), tmp_path / "best" / "other.pth")
    with pytest.raises(InputError, match="not one of its files; give the folder"):
        load_checkpoint(tmp_path / "best" / "other.pth", settings(parts))
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(tmp_path / "best" / "missing.pth", settings(parts))


def test_weights_of_hugging_faces_and_pefts_folders_are_read_with_their_settings(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts, lora_r=4, lora_alpha=7, mask="causal")
    bundle.model.save_pretrained(tmp_path / "hf")
    bundle.processor().save_pretrained(tmp_path / "hf")
    bundle.model.llm.save_pretrained(tmp_path / "peft")
    whole = load_checkpoint(tmp_path / "hf" / "model.safetensors", settings(parts))
    assert whole.settings.mask == "causal"
    alone = load_checkpoint(tmp_path / "peft" / "adapter_model.safetensors", settings(parts))
    for again in (whole, alone):
        assert again.settings.lora_alpha == 7
        same(bundle, again)


def test_tensors_trained_outside_the_adapters_are_required(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts, unfreeze_blip_last_n=1)
    save_adapters(bundle, tmp_path / "adapters")
    same(bundle, load_checkpoint(tmp_path / "adapters", settings(parts)))
    (tmp_path / "adapters" / "other_trained.safetensors").unlink()
    with pytest.raises(InputError, match=r"lacks 26 required tensors \(first: text_encoder"):
        load_checkpoint(tmp_path / "adapters", settings(parts))


@pytest.mark.parametrize(
    "said",
    [
        {"init_lora_weights": "pissa"},  # which takes its start out of the decoder's own weights
        {"alora_invocation_tokens": [1, 2]},  # adapters that are off until these are met
        {"layers_to_transform": [0]},
        {"lora_bias": True},
        {"target_parameters": ["x"]},
        {"of_a_later_version": True},
    ],
)
def test_adapters_that_mean_something_else_are_refused(parts: Path, said: dict[str, object], tmp_path: Path) -> None:
    trained(parts).model.llm.save_pretrained(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | said))
    with pytest.raises(InputError, match=f"not supported here \\({next(iter(said))}\\)"):
        load_checkpoint(tmp_path / "a", settings(parts))


def test_adapter_settings_without_effect_are_accepted(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts)
    bundle.model.llm.save_pretrained(tmp_path / "a")
    path = tmp_path / "a" / "adapter_config.json"
    said = {"init_lora_weights": "gaussian", "fan_in_fan_out": False, "a_later_size": 16, "inference_mode": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | said | {"base_model_name_or_path": "else/where"}))
    again = load_checkpoint(tmp_path / "a", settings(parts))
    same(bundle, again)
    assert "made for else/where" in again.report


def test_adapters_of_an_older_peft_are_read_without_executing_them(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts)
    bundle.model.llm.save_pretrained(tmp_path / "a")
    new = tmp_path / "a" / "adapter_model.safetensors"
    torch.save(load_file(new), tmp_path / "a" / "adapter_model.bin")
    new.unlink()
    same(bundle, load_checkpoint(tmp_path / "a", settings(parts)))
    torch.save({"x": print}, tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(InputError, match="never executed"):
        load_checkpoint(tmp_path / "a", settings(parts))


@pytest.mark.parametrize("sizes", [("50KB", "5GB"), ("5GB", "50KB")])
def test_saving_again_in_other_pieces_leaves_nothing_of_the_first(
    parts: Path, sizes: tuple[str, str], tmp_path: Path
) -> None:
    first = trained(parts)
    SurgViVQAModel.from_model(first.model).save_pretrained(tmp_path / "m", max_shard_size=sizes[0])
    first.processor().save_pretrained(tmp_path / "m")
    second = trained(parts)
    torch.nn.init.normal_(second.model.visual_encoder.layernorm.weight)
    SurgViVQAModel.from_model(second.model).save_pretrained(tmp_path / "m", max_shard_size=sizes[1])
    same(second, load_checkpoint(tmp_path / "m", settings(parts)))
    theirs = SurgViVQAModel.from_pretrained(tmp_path / "m").state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in second.model.state_dict().items())


@pytest.mark.parametrize("form", ["best", "adapters", "best_model.pth"])
def test_flags_locate_parts_that_have_moved(parts: Path, form: str, tmp_path: Path) -> None:
    there = shutil.copytree(parts, tmp_path / "there")
    bundle = trained(there, "llama")
    save_checkpoint(bundle, tmp_path / "best")
    save_adapters(bundle, tmp_path / "adapters")
    export_pth(bundle, tmp_path / "best_model.pth")
    (tmp_path / "config.yaml").write_text(json.dumps(vars(bundle.settings)))
    there.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="give its folder with --video-model"):
        load_checkpoint(tmp_path / form, settings(there))
    again = load_checkpoint(tmp_path / form, settings(tmp_path / "elsewhere", "llama"))
    same(bundle, again)
    assert again.settings.decoder_model == str(tmp_path / "elsewhere" / "llama")


def test_parts_that_are_still_there_are_those_of_the_checkpoint(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts)
    save_checkpoint(bundle, tmp_path / "best")
    other = make_parts(tmp_path / "other")
    assert load_checkpoint(tmp_path / "best", settings(other)).settings.video_model == str(parts / "video")
