"""Folders that Hugging Face's and PEFT's own loaders read, with the same scores before and after."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import GPT2LMHeadModel

from surgvivqa.auto import SurgViVQAModel, SurgViVQAProcessor
from surgvivqa.checkpoints.folders import update_settings
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.saving import export_pth, save_adapters, save_checkpoint
from surgvivqa.cli import main
from surgvivqa.config import ModelConfig, TrainConfig
from surgvivqa.data.labels import LABELS
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.model.bundle import ModelBundle, RunRecord
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import InputError
from tests.helpers.parts import add_decoder, config, make_parts, randomize_trainable, settings

QUESTIONS = ["How many tools are there?", "What is the grasper doing?"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_parts(tmp_path_factory.mktemp("parts"))
    for kind in ("llama", "qwen3"):
        add_decoder(root, kind)
    return root


def trained(parts: Path, kind: str = "gpt2", **flags: object) -> ModelBundle:
    bundle = build_for_training(config(parts, kind, **flags))
    randomize_trainable(bundle.model)
    bundle.model.eval()
    return bundle


def picture(seed: int = 0, width: int = 64) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (48, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def scores(model: SurgViVQAModel, processor: SurgViVQAProcessor) -> torch.Tensor:
    return model.score(**processor(picture(), QUESTIONS))


def of(bundle: ModelBundle) -> torch.Tensor:
    return scores(bundle.model, bundle.processor())


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "flags"), [("gpt2", {}), ("qwen3", {"full_finetune": True})])
def test_a_whole_folder_is_read_by_the_auto_classes_in_a_new_process(
    parts: Path, kind: str, flags: dict[str, object], tmp_path: Path
) -> None:
    bundle = trained(parts, kind, **flags, frame_fit="pad", mask="causal")
    save_checkpoint(bundle, tmp_path / "whole", everything=True, max_shard_size="50KB")
    assert len(list((tmp_path / "whole").glob("model-*.safetensors"))) > 2
    picture().save(tmp_path / "frame.png")
    code = f"""
import surgvivqa.auto, torch
from transformers import AutoModel, AutoProcessor
model, processor = AutoModel.from_pretrained("whole"), AutoProcessor.from_pretrained("whole")
assert not model.training and processor.frame_fit == "pad" and model.config.mask == "causal"
inputs = processor("frame.png", {QUESTIONS!r})
torch.save(model.score(**inputs), "scores.pt")
"""
    hidden = parts.rename(parts.with_name("hidden"))  # nothing but the folder is needed
    try:
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    finally:
        hidden.rename(parts)
    torch.testing.assert_close(torch.load(tmp_path / "scores.pt"), of(bundle), rtol=0, atol=1e-6)


def test_save_pretrained_and_from_pretrained_are_hugging_faces_own(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts, "llama")
    SurgViVQAModel.from_model(bundle.model).save_pretrained(tmp_path / "m", max_shard_size="50KB")
    assert json.loads((tmp_path / "m" / "config.json").read_text())["architectures"] == ["SurgViVQAModel"]
    bundle.processor().save_pretrained(tmp_path / "m")
    model = SurgViVQAModel.from_pretrained(tmp_path / "m")
    processor = SurgViVQAProcessor.from_pretrained(tmp_path / "m")
    assert torch.equal(scores(model, processor), of(bundle))
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_from_pretrained_loads_trained_tensors_onto_the_published_parts(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts)
    save_checkpoint(bundle, tmp_path / "best")
    assert torch.equal(scores(SurgViVQAModel.from_pretrained(tmp_path / "best"), bundle.processor()), of(bundle))


def test_a_tensor_missing_from_a_complete_folder_is_an_error(parts: Path, tmp_path: Path) -> None:
    save_checkpoint(trained(parts), tmp_path / "whole", everything=True)
    file = tmp_path / "whole" / "model.safetensors"
    tensors = load_file(file)
    del tensors["text_encoder.encoder.layer.0.output.dense.weight"]
    save_file(tensors, file, {"format": "pt"})
    update_settings(tmp_path / "whole")
    for load in (SurgViVQAModel.from_pretrained, lambda p: load_checkpoint(p, settings(parts))):
        with pytest.raises(InputError, match=r"lacks 1 (required )?tensors"):
            load(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["gpt2", "qwen3"])
def test_to_peft_and_back_keeps_the_scores(parts: Path, kind: str, tmp_path: Path) -> None:
    bundle = trained(parts, kind, lora_r=4)
    save_adapters(bundle, tmp_path / "adapters")
    assert (tmp_path / "adapters" / "other_trained.safetensors").is_file() == (kind == "qwen3")  # its projection
    again = load_checkpoint(tmp_path / "adapters", settings(parts))
    assert torch.equal(of(again), of(bundle)) and again.settings.lora_r == 4
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


def test_peft_itself_reads_the_adapters(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts, lora_r=4)
    save_adapters(bundle, tmp_path / "adapters")
    base = GPT2LMHeadModel.from_pretrained(parts / "gpt2")
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapters").eval()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=ids).logits, bundle.model.llm(input_ids=ids).logits)
    written = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert written["peft_type"] == "LORA" and written["base_model_name_or_path"] == "gpt2"  # not where it lies here


def test_adapters_written_by_peft_are_read(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts, lora_r=4)
    bundle.model.llm.save_pretrained(tmp_path / "theirs")
    again = load_checkpoint(tmp_path / "theirs", settings(parts))
    assert torch.equal(of(again), of(bundle))


def test_adapters_on_the_packaged_base_come_back(tmp_path: Path) -> None:
    bundle = build_for_training(TrainConfig(preset="tiny"))
    randomize_trainable(bundle.model)
    bundle.model.eval()
    save_adapters(bundle, tmp_path / "adapters")
    assert sum(f.stat().st_size for f in (tmp_path / "adapters").iterdir()) < 1_000_000
    again = load_checkpoint(tmp_path / "adapters", bundle.settings)
    for name, tensor in bundle.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "not supported here \\(use_dora\\)"),
        ({"peft_type": "IA3"}, "not supported here"),
        ({"target_modules": ["c_attn"]}, "adapts c_attn, but"),
        ({"r": None}, "not a LoRA configuration"),
        ({"r": 3}, "have rank 8"),
        ({"target_modules": "all-linear"}, "adapts all-linear, but"),
    ],
)
def test_adapters_of_another_kind_are_refused(
    parts: Path, change: dict[str, object], message: str, tmp_path: Path
) -> None:
    bundle = trained(parts)
    save_adapters(bundle, tmp_path / "adapters")
    path = tmp_path / "adapters" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        load_checkpoint(tmp_path / "adapters", settings(parts))


def test_a_shard_that_is_missing_or_outside_is_named(parts: Path, tmp_path: Path) -> None:
    save_checkpoint(trained(parts), tmp_path / "whole", everything=True, max_shard_size="50KB")
    shard = sorted((tmp_path / "whole").glob("model-*.safetensors"))[1]
    shard.rename(tmp_path / "gone.safetensors")
    with pytest.raises(InputError, match=f"lacks {shard.name}, one of its"):
        load_checkpoint(tmp_path / "whole", settings(parts))
    index = tmp_path / "whole" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shard.name, "../gone.safetensors"))
    with pytest.raises(InputError, match="outside its folder"):
        load_checkpoint(tmp_path / "whole", settings(parts), verify=False)


def test_damaged_folders_get_one_sentence_each(parts: Path, tmp_path: Path) -> None:
    save_checkpoint(trained(parts), tmp_path / "good")
    for name, content in (
        ("model.safetensors", b"\x10\0\0"),
        ("surgvivqa.json", b"[1]"),
        ("config.json", b"{"),
        ("tokenizer.json", b"{}"),
    ):
        folder = shutil.copytree(tmp_path / "good", tmp_path / name.partition(".")[0])
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match="damaged") as refusal:
            load_checkpoint(folder, settings(parts))
        assert "\n" not in str(refusal.value)


# The processor


def test_the_processor_takes_pictures_paths_clips_and_lists(parts: Path, tmp_path: Path) -> None:
    processor = trained(parts).processor()
    picture().save(tmp_path / "a.png")
    one = processor(picture(), "How many?")
    assert one["pixel_values"].shape == (1, 4, 3, 32, 32) and len(one["prompts"]) == 1 and len(one["label_ids"]) == 51
    assert torch.equal(one["pixel_values"], processor(tmp_path / "a.png", "How many?")["pixel_values"])
    two = processor([picture(0), picture(1)], [["How many?"], ["What?", "Where?"]])
    assert two["pixel_values"].shape[0] == 2 and [len(row) for row in two["prompts"]] == [1, 2]
    clip = processor([[picture(0), picture(1), picture(2)]], "How many?")["pixel_values"][0]
    assert torch.equal(clip[0], clip[1]) and not torch.equal(clip[1], clip[2])  # filled with its first frame
    assert torch.equal(
        processor([[picture(9), *map(picture, range(4))]], "Q?")["pixel_values"][0, 0],
        processor(picture(0), "Q?")["pixel_values"][0, 0],
    )


@pytest.mark.parametrize(
    ("images", "text", "message"),
    [
        (["missing.png"], ["Q?"], "does not exist"),
        ([picture(), picture()], ["Q?"], "2 frames but 1 lists"),
        ([[]], ["Q?"], "no frame"),
        ([picture()], [[]], "at least one"),
        ([picture()], ["why " * 300], "tokens with its answer"),
    ],
)
def test_the_processor_refuses(parts: Path, images: list[object], text: list[object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        trained(parts).processor()(images, text)  # type: ignore[arg-type]


def test_answers_are_labels_with_probabilities(parts: Path) -> None:
    bundle = trained(parts)
    processor = bundle.processor()
    answers = processor.answers(of(bundle), top=51)
    assert [len(row) for row in answers] == [51, 51]
    for row, score in zip(answers, of(bundle), strict=True):
        assert {label for label, _ in row} == set(LABELS) and sum(p for _, p in row) == pytest.approx(1)
        assert row[0][0] == LABELS[int(score.argmax())]


# surgvivqa convert


def flags_of(parts: Path) -> list[str]:
    model = settings(parts)
    return [f"--model.{n}-model={getattr(model, f'{n}_model')}" for n in ("video", "text", "decoder")] + [
        "--model.num-frames=4"
    ]


@pytest.fixture
def best(parts: Path, tmp_path: Path) -> Path:
    bundle = trained(parts, lora_r=4)
    flags = {"max_steps": 5, "lora_r": 4, "ssgvqa_root": "/home/somebody/data"}
    bundle.run = RunRecord(flags, ("VID01",))
    save_checkpoint(bundle, tmp_path / "run" / "best")
    return tmp_path / "run"


@pytest.mark.slow
def test_convert_to_each_form_and_on(
    best: Path, parts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = of(load_checkpoint(best, settings(parts)))
    steps: tuple[Any, ...] = (
        (best, "huggingface", "hf", []),
        ("hf", "published", "whole.pth", ["--tensors=all"]),
        ("whole.pth", "peft", "adapters", []),
        ("adapters", "published", "trained.pth", []),
        ("trained.pth", "huggingface", "merged", ["--merge"]),
        (best, "huggingface", "small", ["--tensors=trained"]),
    )
    for source, form, target, more in steps:
        path = [f"--checkpoint={tmp_path / source}", f"--output={tmp_path / target}", f"--to={form}"]
        assert main(["convert", *path, *more, *flags_of(parts)]) == 0
        assert f"written: {tmp_path / target}" in capsys.readouterr().out
        found = of(load_checkpoint(tmp_path / target, settings(parts, lora_r=4)))
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if target != "merged" else 1e-4, msg=target)
    sizes = {n: sum(f.stat().st_size for f in (tmp_path / n).glob("*.safetensors")) for n in ("hf", "small", "merged")}
    assert sizes["small"] < sizes["hf"] / 10
    assert not any("lora" in k for k in load_file(tmp_path / "merged" / "model.safetensors"))
    for folder in ("hf", "adapters", "merged", "small"):
        card = (tmp_path / folder / "README.md").read_text()
        assert card.startswith("---\n") and "somebody" not in card and str(tmp_path) not in card


@pytest.mark.slow
def test_merged_runs_go_on(best: Path, parts: Path, tmp_path: Path) -> None:
    expected = of(load_checkpoint(best, settings(parts)))
    for source, form, target in (
        (best, "huggingface", "merged"),
        (best, "published", "merged.pth"),
        ("merged", "huggingface", "again"),
        ("merged", "published", "again.pth"),
    ):
        merge = ["--merge"] if source is best else []
        path = [f"--checkpoint={tmp_path / source}", f"--output={tmp_path / target}", f"--to={form}"]
        assert main(["convert", *path, *merge, *flags_of(parts)]) == 0
        found = load_checkpoint(tmp_path / target, settings(parts))
        assert found.model.config.lora is None and found.settings.lora_r == 0
        torch.testing.assert_close(of(found), expected, rtol=0, atol=1e-4)


def test_new_adapters_on_a_merged_model_are_restored_from_every_form(parts: Path, tmp_path: Path) -> None:
    """LoRA, then BLIP's last layer without it (which merges), then LoRA again."""
    save_checkpoint(trained(parts, lora_r=4), tmp_path / "a")
    save_checkpoint(trained(parts, pretrained_ckpt=tmp_path / "a", lora_r=0, unfreeze_blip_last_n=1), tmp_path / "b")
    last = trained(parts, pretrained_ckpt=tmp_path / "b", lora_r=2)
    save_checkpoint(last, tmp_path / "best")
    save_adapters(last, tmp_path / "adapters")
    export_pth(last, tmp_path / "best_model.pth")
    run = dict(vars(last.settings))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(run))
    for name in ("best", "adapters", "best_model.pth"):
        assert torch.equal(of(load_checkpoint(tmp_path / name, settings(parts))), of(last)), name


def test_other_folders_next_to_the_output_are_not_touched(best: Path, tmp_path: Path) -> None:
    for name in ("hf.old", "hf.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").write_text("x")
    assert main(["convert", f"--checkpoint={best}", f"--output={tmp_path / 'hf'}"]) == 0
    assert (tmp_path / "hf.old" / "mine").exists() and (tmp_path / "hf.tmp" / "mine").exists()


def test_a_card_shows_only_the_metrics_of_its_own_run(best: Path, parts: Path, tmp_path: Path) -> None:
    row = {"n": 9, **dict.fromkeys(METRICS, 0.987)}
    report: dict[str, Any] = row | {
        "by_type": {},
        "by_reasoning": {},
        "by_video": {},
        "split": "test",
        "max_samples": None,
    }
    report |= {"mask": "prefix", "prompt_mode": "simple", "score_norm": "sum"}
    (best / "eval-test").mkdir()
    (best / "config.yaml").write_text("{}")
    for checkpoint, shown in (("/elsewhere/run", False), (str(best / "best"), True), ([1], False)):
        content = report | {"checkpoint": checkpoint}
        (best / "eval-test" / "metrics.json").write_text(json.dumps(content))
        assert main(["convert", f"--checkpoint={best}", f"--output={tmp_path / 'hf'}", "--overwrite"]) == 0
        assert ("98.7" in (tmp_path / "hf" / "README.md").read_text()) == shown
    (best / "eval-test" / "metrics.json").write_text("{}")  # damaged: the card goes without, and nothing is lost
    assert main(["convert", f"--checkpoint={best}", f"--output={tmp_path / 'hf'}", "--overwrite"]) == 0
    assert "Not evaluated" in (tmp_path / "hf" / "README.md").read_text()


def test_a_folder_that_misses_a_tensor_it_was_written_with_is_refused(best: Path, parts: Path) -> None:
    file = best / "best" / "model.safetensors"
    tensors = load_file(file)
    save_file({k: v for k, v in tensors.items() if "h.1." not in k}, file, {"format": "pt"})
    update_settings(best / "best")
    with pytest.raises(InputError, match="lacks 6 required tensors"):
        load_checkpoint(best, settings(parts))


def test_a_weights_file_is_read_with_the_settings_of_its_folder(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts, frame_fit="pad", mask="causal", lora_alpha=8)
    save_checkpoint(bundle, tmp_path / "best")
    again = load_checkpoint(tmp_path / "best" / "model.safetensors", settings(parts))
    assert (again.settings.frame_fit, again.settings.mask) == ("pad", "causal")
    assert torch.equal(of(again), of(bundle))


def test_adapters_without_their_projection_are_refused(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts, "llama")
    bundle.model.llm.save_pretrained(tmp_path / "theirs")
    with pytest.raises(InputError, match=r"lacks 2 required tensors .*text_projection"):
        load_checkpoint(tmp_path / "theirs", settings(parts, "llama"))


def test_a_fractional_alpha_is_kept(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts, lora_r=4)
    save_adapters(bundle, tmp_path / "adapters")
    path = tmp_path / "adapters" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lora_alpha": 0.5}))
    model = load_checkpoint(tmp_path / "adapters", settings(parts)).model
    assert model.decoder.transformer.h[0].attn.c_attn.scaling["default"] == 0.125


def test_a_folder_of_save_pretrained_is_a_checkpoint(parts: Path, tmp_path: Path) -> None:
    bundle = trained(parts, "llama", lora_r=4, frame_fit="crop", mask="causal")
    bundle.model.save_pretrained(tmp_path / "m")
    bundle.processor().save_pretrained(tmp_path / "m")
    again = load_checkpoint(tmp_path / "m", settings(parts))
    assert torch.equal(of(again), of(bundle))
    found = again.settings
    assert (found.frame_fit, found.mask, found.lora_r, found.num_frames) == ("crop", "causal", 4, 4)


def test_save_pretrained_into_an_adapter_folder_replaces_the_adapters(parts: Path, tmp_path: Path) -> None:
    save_adapters(trained(parts, "llama"), tmp_path / "m")
    model = SurgViVQAModel.from_pretrained(tmp_path / "m")
    assert type(model) is SurgViVQAModel and not model.training
    assert isinstance(model.text_projection, torch.nn.Linear)
    torch.nn.init.normal_(model.text_projection.weight)
    model.save_pretrained(tmp_path / "m")
    again = SurgViVQAModel.from_pretrained(tmp_path / "m")
    assert isinstance(again.text_projection, torch.nn.Linear)
    assert torch.equal(again.text_projection.weight, model.text_projection.weight)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_nearly_the_same(parts: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    bundle = trained(parts, "llama")
    save_checkpoint(bundle, tmp_path / "whole", everything=True)
    model = SurgViVQAModel.from_pretrained(tmp_path / "whole", dtype=dtype).eval()
    assert {p.dtype for n, p in model.named_parameters() if "lora_" not in n} == {
        dtype
    }  # PEFT keeps adapters in float32
    found = scores(model, bundle.processor())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, of(bundle), rtol=0.05, atol=0.3)


def test_from_pretrained_refuses_arguments_without_effect(parts: Path, tmp_path: Path) -> None:
    save_checkpoint(trained(parts), tmp_path / "best")
    with pytest.raises(InputError, match="takes no argument but dtype, and not nonsense"):
        SurgViVQAModel.from_pretrained(tmp_path / "best", nonsense=1)
    assert SurgViVQAModel.from_pretrained(tmp_path / "best", dtype=torch.bfloat16).dtype == torch.bfloat16


def test_convert_shards(best: Path, parts: Path, tmp_path: Path) -> None:
    output = tmp_path / "hf"
    assert main(["convert", f"--checkpoint={best}", f"--output={output}", "--max-shard-size=50KB"]) == 0
    assert (output / "model.safetensors.index.json").is_file()
    assert torch.equal(of(load_checkpoint(output, settings(parts))), of(load_checkpoint(best, settings(parts))))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--to=peft", "--merge"], "cannot be used with --merge"),
        (["--to=peft", "--tensors=all"], "cannot be used with --tensors all"),
        (["--merge", "--tensors=trained"], "would not save"),
        (["--to=published", "--push-to-hub=a/b"], "must end in .pth|uploads a folder"),
        (["--private"], "--push-to-hub"),
        (["--to=published"], "must end in .pth"),
        (["--metrics=nowhere.json"], "is not a metrics.json"),
        (["--max-shard-size=lots"], "--max-shard-size"),
        (["--max-shard-size=0KB"], "no room"),
        (["--licence=CC BY"], "not a licence identifier"),
        (["--push-to-hub=bad name"], "not a repository name"),
        (["--names=transformers5"], "has no effect with --to huggingface"),
    ],
)
def test_convert_refuses(
    best: Path, tmp_path: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert main(["convert", f"--checkpoint={best}", f"--output={tmp_path / 'out'}", *flags]) == 2
    said = capsys.readouterr().err
    assert re.search(message, said.splitlines()[-1]) and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_convert_replaces_only_checkpoints_and_only_with_overwrite(
    best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = ["convert", f"--checkpoint={best}", f"--output={output}"]
    assert main(command) == 0
    assert main(command) == 2 and "--overwrite" in capsys.readouterr().err
    assert main([*command, "--overwrite"]) == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main(["convert", f"--checkpoint={best}", f"--output={tmp_path / 'mine'}", "--overwrite"]) == 2
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    assert main(["convert", f"--checkpoint={best}", f"--output={best / 'best'}", "--overwrite"]) == 2
    assert main(["convert", f"--checkpoint={best / 'best'}", f"--output={best}", "--overwrite"]) == 2
    assert main(["convert", f"--checkpoint={best}", f"--output={best / 'best' / 'hf'}"]) == 2  # a run replaces best/
    assert load_file(best / "best" / "model.safetensors")


def test_a_checkpoint_of_the_hubs_is_fetched_by_name(
    best: Path, parts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fetch(name: str, flag: str) -> Path:
        asked.append((name, flag))
        return best / "best"

    monkeypatch.setattr("surgvivqa.checkpoints.loading.fetch", fetch)
    monkeypatch.chdir(tmp_path)
    assert torch.equal(
        of(load_checkpoint(Path("someone/model"), settings(parts))), of(load_checkpoint(best, settings(parts)))
    )
    assert asked == [("someone/model", "--checkpoint")]
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match="holds no checkpoint"):  # a mistyped folder is not a name on the hub
        load_checkpoint(Path("runs/lora"), settings(parts))
    assert len(asked) == 1


def test_the_packaged_base_goes_through_the_published_form(tmp_path: Path) -> None:
    output = tmp_path / "tiny.pth"
    assert main(["convert", "--checkpoint=tiny", f"--output={output}", "--to=published", "--tensors=all"]) == 0
    first = load_checkpoint(Path("tiny"), ModelConfig(preset="tiny"))
    again = load_checkpoint(output, ModelConfig(preset="tiny"))
    for name, tensor in first.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
