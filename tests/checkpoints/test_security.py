"""Nobody gets in: real attack files at every door. Each is one sentence with exit code 2, and nothing of theirs runs.

Files in the published form with code in them are in ``tests/checkpoints/test_published.py``, the hub and its tokens in
``test_hub.py``, damaged caches and indexes in ``data/``.
"""

import ast
import json
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from PIL import Image

import surgvivqa
from surgvivqa.auto import SurgViVQAModel
from surgvivqa.checkpoints.adapters import add_adapters
from surgvivqa.checkpoints.folders import load_folder
from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.model_card import write_model_card
from surgvivqa.checkpoints.packaged import PACKAGED_BASE
from surgvivqa.checkpoints.saving import save_adapters, save_checkpoint
from surgvivqa.cli import main, mask_record
from surgvivqa.commands.convert import ConvertConfig, convert
from surgvivqa.data import index
from surgvivqa.data.columns import schema
from surgvivqa.data.splits import load_splits
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.features.cache_file import CacheFile
from surgvivqa.model.bundle import RunRecord
from surgvivqa.training.resume import find_state, step_folders
from surgvivqa.utils import atomic_files as atomic
from surgvivqa.utils.errors import InputError, RunError
from surgvivqa.utils.secrets import holds_secret, mask_secrets
from tests.helpers.parts import make_parts, settings

TOKEN = "hf_" + "Zq9" * 11
DEEP = "[" * 100_000 + "]" * 100_000
Change = Callable[[dict[str, Any]], Any]


class Bomb:
    """Leaves a folder behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "frame.png"
    Image.new("RGB", (32, 32)).save(path)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ``whole`` checkpoint and one in ``peft``'s format, as received from an untrusted source."""
    root = tmp_path_factory.mktemp("folders")
    save_checkpoint(load_folder(PACKAGED_BASE), root / "whole", everything=True)
    bundle = add_adapters(load_folder(PACKAGED_BASE), {"r": 4, "alpha": 8, "dropout": 0.0})
    bundle.settings.lora_r = 4
    save_adapters(bundle, root / "peft")
    return root


def changed(folder: Path, to: Path, file: str, change: Change | str) -> Path:
    """A copy in which one JSON file says something else."""
    shutil.copytree(folder, to, copy_function=os.link)
    path = to / file
    content: Any = json.loads(path.read_text()) if path.is_file() and not isinstance(change, str) else {}
    path.unlink(missing_ok=True)
    if isinstance(change, str):
        path.write_text(change)
    else:
        change(content)
        path.write_text(json.dumps(content))
    return to


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one sentence of a command that must end with exit code 2."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == 2
    message = capsys.readouterr().err.splitlines()
    assert len([line for line in message if line.startswith("surgvivqa: ")]) == 1
    return message[-1]


def ask(checkpoint: Path, picture: Path, *more: str) -> list[str]:
    return ["predict", f"--checkpoint={checkpoint}", f"--image={picture}", "--question=what is it", *more]


# --- the source itself ---------------------------------------------------------------------------------------------

_UNPACKERS = {"tarfile", "marshal", "shelve", "dill", "joblib", "cloudpickle", "zipfile", "pickle", "runpy", "code"}
_ALLOWED = {
    ("checkpoints/published.py", "pickle"),
    ("checkpoints/checksums.py", "zipfile"),  # checksums alone
    ("downloads/archives.py", "zipfile"),  # after its own checks: tests/downloads/test_archives.py
    ("downloads/archives.py", "tarfile"),
}
_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "shutil.unpack_archive", "yaml.load"}
_CALLS |= {"yaml.unsafe_load", "yaml.full_load", "pickle.load", "pickle.loads", "input"}


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def faults_of(source: str, name: str) -> list[str]:
    """What in a module could run or unpack what it reads."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [n for n in names if n.split(".")[0] in _UNPACKERS and (name, n) not in _ALLOWED]
            found += [a.name for a in node.names if a.name == "unpack_archive"]
        elif isinstance(node, ast.Attribute):
            used = _dotted(node)
            if used.startswith("pickle.") and used != "pickle.UnpicklingError":
                found.append(used)
            if node.attr in ("extract", "extractall"):
                found.append(used)
        elif isinstance(node, ast.Call):
            called = _dotted(node.func)
            given = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if called in _CALLS or given.get("shell", "False") != "False":
                found.append(called)
            if called == "torch.load" and given.get("weights_only") != "True":
                found.append(called)
            if called.endswith("np.load") or given.get("allow_pickle", "False") != "False":
                found.append(called)
            if given.get("trust_remote_code", "False") != "False":
                found.append(called)
            if called.startswith("Auto") and called.endswith(("from_pretrained", "from_config")):
                found += [called] if given.get("trust_remote_code") != "False" else []
    return found


def test_no_module_can_execute_or_unpack_files() -> None:
    root = Path(surgvivqa.__file__).parent
    modules = sorted(root.rglob("*.py"))
    assert len(modules) > 50
    found = {p.name: f for p in modules if (f := faults_of(p.read_text(), p.relative_to(root).as_posix()))}
    assert not found


@pytest.mark.parametrize(
    "line",
    [
        "import tarfile",
        "from shutil import unpack_archive",
        "import pickle",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "yaml.load(t)",
        "eval(t)",
        "os.system(t)",
        "subprocess.run(t, shell=True)",
        "np.load(p)",
        "AutoModel.from_pretrained(p)",
        "z.extractall()",
        "pickle.loads(b)",
    ],
)
def test_the_source_check_finds_unsafe_calls(line: str) -> None:
    assert faults_of(line, "some.py")


def test_tools_and_benchmarks_run_nothing_through_a_shell() -> None:
    root = Path(__file__).parents[2]
    for folder in ("benchmarks", "experiments", "tools"):
        for path in (root / folder).rglob("*.py"):
            source = path.read_text()
            assert "shell=True" not in source and "weights_only=False" not in source, path
            assert not {"os.system", "yaml.load", "unpack_archive"} & set(faults_of(source, path.name)), path


# --- pickles and code ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["video", "text", "decoder"])
def test_a_part_with_a_pickle_in_it(
    parts: Path, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], data_flags: list[str]
) -> None:
    folder = shutil.copytree(parts / ("gpt2" if part == "decoder" else part), tmp_path / part)
    (folder / "model.safetensors").unlink()
    torch.save({"x": Bomb(tmp_path / "owned")}, folder / "pytorch_model.bin")
    flags = [f"--{n}-model={parts / d}" for n, d in (("video", "video"), ("text", "text"), ("decoder", "gpt2"))]
    flags += [f"--{part}-model={folder}", "--num-frames=4", "--workers=0", f"--checkpoint-dir={tmp_path / 'run'}"]
    said = refused(capsys, "train", *flags, *data_flags)
    assert "never executed" in said and f"--{part}-model" in said
    assert not (tmp_path / "owned").exists()


def test_pickles_are_refused_by_other_readers(
    folders: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, peft = (shutil.copytree(folders / name, tmp_path / name) for name in ("whole", "peft"))
    (whole / "model.safetensors").unlink()
    (peft / "adapter_model.safetensors").unlink()
    for path in (whole / "pytorch_model.bin", peft / "adapter_model.bin", peft / "optimizer.pt"):
        torch.save({"x": Bomb(tmp_path / "owned")}, path)
    # An older PEFT's adapters are looked at, for their tensors alone.
    for folder, said in ((whole, "does not exist"), (peft, "never executed")):
        assert said in refused(capsys, *ask(folder, picture))
        assert said in refused(capsys, "convert", f"--checkpoint={folder}", f"--output={tmp_path}/out")
    with pytest.raises(OSError, match="safetensors"):
        SurgViVQAModel.from_pretrained(whole)
    evil = tmp_path / "evil.pth"
    torch.save({"x": Bomb(tmp_path / "owned")}, evil)
    for command in ("convert", "train"):
        flags = [f"--checkpoint={evil}", f"--output={tmp_path}/o"] if command == "convert" else []
        if command == "train":
            flags = ["--preset=tiny", f"--pretrained-ckpt={evil}", "--workers=0", f"--checkpoint-dir={tmp_path}/r"]
            flags += [f"--ssgvqa-root={tmp_path}", f"--image-root={tmp_path}"]
        refused(capsys, command, *flags)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("part", ["video", "text", "gpt2", "whole"])
def test_code_in_a_folder_is_never_imported(
    parts: Path, folders: Path, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("the user was asked whether to run it")

    monkeypatch.setattr("builtins.input", asked)
    evil = f"import os\nos.mkdir({str(tmp_path / 'owned')!r})\nclass A: pass\n"
    names = dict.fromkeys(("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoProcessor"), "evil.A")
    if part == "whole":
        folder = changed(folders / "whole", tmp_path / "w", "config.json", lambda c: c.update(auto_map=names))
        vit = {"model_type": "vit", "auto_map": names, "num_hidden_layers": 1, "name_or_path": str(tmp_path / "vit")}
        asks = changed(folder, tmp_path / "vit", "config.json", lambda c: c.update(decoder_config=vit))
        (asks / "evil.py").write_text(evil)
    else:
        copy = shutil.copytree(parts, tmp_path / "parts")
        folder = changed(copy / part, tmp_path / part, "config.json", lambda c: c.update(auto_map=names))
    path = folder / "tokenizer_config.json"
    tokenizer = json.loads(path.read_text()) if path.is_file() else {}
    path.unlink(missing_ok=True)
    path.write_text(json.dumps(tokenizer | {"auto_map": {"AutoTokenizer": ["evil.A", "evil.A"]}}))
    (folder / "evil.py").write_text(evil)
    if part == "whole":
        load_checkpoint(folder, settings(parts))
        with pytest.raises(InputError):
            load_checkpoint(asks, settings(parts))
    else:
        from surgvivqa.checkpoints.backbones import load_decoder, load_text_encoder, load_video_encoder

        {"video": lambda n: load_video_encoder(n, 4), "text": load_text_encoder, "gpt2": load_decoder}[part](
            str(folder)
        )
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_an_attention_from_the_hub_is_code(
    parts: Path, folders: Path, picture: Path, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(folders / "whole", tmp_path / "w", "config.json", lambda c: c.update({key: "evil/kernel"}))
    assert "code from the hub" in refused(capsys, *ask(folder, picture))
    part = changed(parts / "gpt2", tmp_path / "gpt2", "config.json", lambda c: c.update({key: {"": "x|evil/kernel"}}))
    from surgvivqa.checkpoints.backbones import load_decoder

    with pytest.raises(InputError, match="code from the hub"):
        load_decoder(str(part))


@pytest.mark.parametrize(
    "value", [{"decoder_config": {"": "user/kern"}}, {"a": [{"b": "user/kern"}]}, "flash_attention_2"]
)
def test_an_attention_at_any_depth(
    value: object, folders: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change: Change = lambda c: c.update(_attn_implementation=value)  # noqa: E731
    folder = changed(folders / "whole", tmp_path / "w", "config.json", change)
    assert "code from the hub" in refused(capsys, *ask(folder, picture))
    with pytest.raises(InputError, match="code from the hub"):
        SurgViVQAModel.from_pretrained(folder)


def test_an_attention_of_a_repository_that_hugging_face_fetches_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    from surgvivqa.model.configuration import SurgViVQAConfig

    asked = {"decoder_config": {"_attn_implementation": "user/kern"}}
    monkeypatch.setattr(SurgViVQAConfig, "get_config_dict", lambda *_, **__: (asked, {}))
    with pytest.raises(InputError, match="code from the hub"):
        SurgViVQAModel.from_pretrained("lab/model", token="a-token")


def test_a_yaml_tag_makes_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'owned'}']\n")
    assert "cannot be read" in refused(capsys, "train", "--config", path)
    assert not (tmp_path / "owned").exists()


# --- paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "..", "", "a\\b", "C:x", "a\0b"])
def test_an_index_cannot_name_files_outside_its_folder(parts: Path, folders: Path, name: str, tmp_path: Path) -> None:
    text = json.dumps({"metadata": {}, "weight_map": {"a": name}})
    whole = changed(folders / "whole", tmp_path / "w", "model.safetensors.index.json", text)
    part = changed(parts / "gpt2", tmp_path / "gpt2", "model.safetensors.index.json", text)
    from surgvivqa.checkpoints.backbones import load_decoder

    with pytest.raises(InputError, match="outside"):
        load_checkpoint(whole, settings(parts))
    with pytest.raises(InputError, match="outside"):
        SurgViVQAModel.from_pretrained(whole)
    with pytest.raises(InputError, match="outside"):
        load_decoder(str(part))


def test_a_part_does_not_send_the_loader_elsewhere(parts: Path, tmp_path: Path) -> None:
    from surgvivqa.checkpoints.backbones import load_decoder

    elsewhere = {"base_model_name_or_path": str(parts / "gpt2"), "peft_type": "LORA"}
    part = changed(parts / "gpt2", tmp_path / "gpt2", "adapter_config.json", lambda c: c.update(elsewhere))
    with pytest.raises(InputError, match="holds adapters, not a model"):
        load_decoder(str(part))


@pytest.mark.parametrize(
    "name", ["../x", "VID01/..", "/etc", "VID01\0", "VID０1", "VID\u200b01", "..", "-x", "VID01\n", "", "C:x", "~"]
)
def test_a_split_file_cannot_name_paths(name: str, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}_videos.json").write_text(json.dumps([name] if split == "test" else []))
    with pytest.raises(InputError, match="video names"):
        load_splits(tmp_path)


def writing(text: str, folder: Path) -> None:
    (folder / "a").write_text(text)


def test_nothing_is_written_through_a_link(tmp_path: Path, folders: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "a").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".best.writing").symlink_to(tmp_path / "precious")
    atomic.write_folder(tmp_path / "run" / "best", lambda aside: writing("mine", aside))
    assert (tmp_path / "run" / "best" / "a").read_text() == "mine"
    (tmp_path / "run" / ".best.replaced").symlink_to(tmp_path / "precious")
    atomic.write_folder(tmp_path / "run" / "best", lambda aside: writing("again", aside))
    (tmp_path / "run" / "linked").symlink_to(tmp_path / "precious")
    with pytest.raises(RunError, match="is a link"):
        atomic.write_folder(tmp_path / "run" / "linked", lambda aside: None)
    writers: dict[str, Callable[[], object]] = {
        ".f.writing": lambda: atomic.write_text(tmp_path / "run" / "f", "mine"),
        ".README.md.writing": lambda: write_model_card(tmp_path / "run", settings(tmp_path), RunRecord(), None, None),
    }
    for name, write in writers.items():
        (tmp_path / "run" / name).symlink_to(tmp_path / "precious" / "a")
        write()
    with pytest.raises(InputError, match="is a link"):
        convert(ConvertConfig(checkpoint=folders / "whole", output=tmp_path / "run" / "linked", overwrite=True))
    assert (tmp_path / "precious" / "a").read_text() == "precious"
    assert [p.name for p in (tmp_path / "precious").iterdir()] == ["a"]


def test_old_checkpoints_that_are_links_or_no_checkpoints(tmp_path: Path) -> None:
    checkpoints = tmp_path / "checkpoints"
    checkpoints.mkdir()
    for name in ("step-old-2", "step-x9", "step-٣", "step-0000002"):
        (checkpoints / name).mkdir()
    (tmp_path / "precious").mkdir()
    (checkpoints / "step-0000001").symlink_to(tmp_path / "precious")
    assert [p.name for p in step_folders(checkpoints)] == ["step-0000002", "step-0000001"]
    shutil.rmtree(step_folders(checkpoints)[1], ignore_errors=True)  # as a run prunes them
    assert (tmp_path / "precious").is_dir()


# --- values and sizes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "folder, file",
    [
        ("whole", "config.json"),
        ("whole", "surgvivqa.json"),
        ("whole", "tokenizer.json"),
        ("whole", "model.safetensors.index.json"),
        ("peft", "adapter_config.json"),
    ],
)
def test_json_of_any_depth_is_one_sentence(
    folders: Path, picture: Path, folder: str, file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, text in enumerate((DEEP, '{"a":' * 100_000, "[1]", "9" * 5000)):
        where = changed(folders / folder, tmp_path / str(number), file, text)
        assert str(where) in refused(capsys, *ask(where, picture))


def test_other_json_of_any_depth(tmp_path: Path, folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split in ("train", "val", "test"):
        (tmp_path / f"{split}_videos.json").write_text(DEEP)
    with pytest.raises(InputError, match="too deep"):
        load_splits(tmp_path)
    (tmp_path / "metrics.json").write_text(DEEP)
    flags = [f"--checkpoint={folders / 'whole'}", f"--output={tmp_path}/o", f"--metrics={tmp_path}/metrics.json"]
    assert "too deep" in refused(capsys, "convert", *flags)
    (tmp_path / "metrics.json").write_text(json.dumps({"n": "<b>", "acc": [1], "by_type": {}}))
    assert "it has no mAP" in refused(capsys, "convert", *flags)
    step = tmp_path / "checkpoints" / "step-0000001"
    step.mkdir(parents=True)
    for text in (DEEP, '{"sha256": {}, "step": "9"}', '{"sha256": [], "losses": 5}', '{"sha256": {}, "of": []}'):
        (step / "training.json").write_text(text)
        with pytest.raises(InputError, match="None of the 1 checkpoints"):
            find_state(tmp_path / "checkpoints")


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["settings"].update(max_length="x"),
        lambda c: c["settings"].update(max_length=10**30),
        lambda c: c["settings"].update(mask="evil"),
        lambda c: c["settings"].update(prompt_mode={}),
        lambda c: c["settings"].update(preset="evil"),
        lambda c: c["settings"].update(video_model=5),
        lambda c: c["settings"].update(num_frames="16"),
        lambda c: c["settings"].update(lora_dropout=float("nan")),
        lambda c: c["settings"].update(evil=1),
        lambda c: c.update(settings=[]),
        lambda c: c.update(run="x"),
        lambda c: c.update(holds="evil"),
        lambda c: c.update(holds=[1]),
        lambda c: c.update(tensors=5),
        lambda c: c.update(tensors=[[1]]),
        lambda c: c["run"].update(train_videos=5),
        lambda c: c["run"].update(train_videos=[5]),
        lambda c: c["run"].update(ssgvqa_root=5),
        lambda c: c["run"].update(image_root="a\0b"),
        lambda c: c["run"].update(unfreeze_blip_last_n="x"),
    ],
)
def test_settings_of_another_kind(
    change: Change, folders: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(folders / "whole", tmp_path / "w", "surgvivqa.json", change)
    refused(capsys, *ask(folder, picture))
    refused(capsys, "convert", f"--checkpoint={folder}", f"--output={tmp_path}/out")


def test_views_buffers_and_optimizer_states_are_read(parts: Path, tmp_path: Path) -> None:
    """Older forms, views, buffers that are expanded, an optimiser beside the weights."""
    from surgvivqa.checkpoints.published import read_tensors

    weights = {
        "text_encoder.a": torch.randn(4, 3).T,
        "positions": torch.arange(512).expand(2, -1),
        "n": torch.tensor(1),
    }
    for number, (held, options) in enumerate(
        [
            (weights, {}),
            (weights, {"_use_new_zipfile_serialization": False}),
            ({"state_dict": weights, "optimizer": {"state": {i: {"step": 1.0} for i in range(2000)}}}, {}),
        ]
    ):
        path = tmp_path / f"{number}.pth"
        torch.save(held, path, **options)
        assert torch.equal(read_tensors(path)["text_encoder.a"], weights["text_encoder.a"])


@pytest.mark.parametrize("frames", [514, 20_000_000])
def test_a_clip_without_end(
    frames: int, folders: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(
        folders / "whole", tmp_path / "w", "surgvivqa.json", lambda c: c["settings"].update(num_frames=frames)
    )
    assert "from 2 to 512" in refused(capsys, *ask(folder, picture))


def test_a_run_folder_is_untrusted_too(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints" / "step-0000001").mkdir(parents=True)
    bomb = (
        "a0: &a0 x\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)) + "seed: *a8"
    )
    command = ["train", "--preset=tiny", "--max-steps=1", *data_flags, f"--checkpoint-dir={run}"]
    for content in (bomb, "seed: " + "[" * 5000 + "]" * 5000):
        (run / "config.yaml").write_text(content)
        assert "config.yaml is missing or cannot be read" in refused(capsys, *command)
    (run / "config.yaml").unlink()
    os.mkfifo(run / "config.yaml")
    assert "config.yaml is missing or cannot be read" in refused(capsys, *command)
    os.mkfifo(run / "train.log")
    assert "not a regular file" in refused(capsys, *command)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "adapter_model.safetensors"])
def test_a_pipe_in_a_checkpoint(
    name: str, folders: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = "peft" if name.startswith("adapter") else "whole"
    shutil.copytree(folders / kind, tmp_path / "w", copy_function=os.link)
    (tmp_path / "w" / name).unlink()
    os.mkfifo(tmp_path / "w" / name)
    refused(capsys, *ask(tmp_path / "w", picture))


def test_a_run_without_bounds_can_be_read_again(
    data_flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--preset=tiny", "--workers=0", "--max-steps=1", "--val-max-samples=4", "--max-grad-norm=inf"]
    assert main(["train", *flags, *data_flags, f"--checkpoint-dir={tmp_path}/run"]) == 0
    assert main(["eval", f"--checkpoint={tmp_path}/run", "--workers=0", "--max-samples=4"]) == 0


@pytest.mark.parametrize(
    "part, key, value",
    [
        ("video_config", "num_hidden_layers", 10**9),
        ("video_config", "hidden_size", 10**7),
        ("video_config", "patch_size", 0),
        ("text_config", "vocab_size", 10**11),
        ("text_config", "max_position_embeddings", 10**12),
        ("decoder_config", "n_layer", 10**9),
        ("decoder_config", "n_embd", "x"),
        ("decoder_config", "n_head", 0),
        ("decoder_config", "activation_function", "evil"),
        ("lora", "r", 10**9),
    ],
)
def test_a_configuration_that_asks_for_more_than_the_file_holds(
    part: str, key: str, value: object, folders: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(content: dict[str, Any]) -> None:
        content[part] = {"alpha": 1, "dropout": 0, **(content[part] or {}), key: value}

    folder = changed(folders / "whole", tmp_path / "w", "config.json", change)
    assert "damaged or incomplete" in refused(capsys, *ask(folder, picture))


@pytest.mark.parametrize(
    "key, value",
    [("r", float("inf")), ("r", 10**9), ("r", 0), ("lora_alpha", "x"), ("lora_dropout", 5), ("target_modules", [1])],
)
def test_adapters_of_impossible_numbers(
    key: str, value: object, folders: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = changed(folders / "peft", tmp_path / "p", "adapter_config.json", lambda c: c.update({key: value}))
    refused(capsys, *ask(folder, picture))


@pytest.mark.parametrize("header", [struct.pack("<Q", 2**62) + b"{}", None])
def test_a_header_that_promises_too_much(header: bytes | None, parts: Path, folders: Path, tmp_path: Path) -> None:
    from surgvivqa.checkpoints.backbones import load_video_encoder

    if header is None:
        text = json.dumps({"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
        header = struct.pack("<Q", len(text)) + text
    whole = shutil.copytree(folders / "whole", tmp_path / "w")
    video = shutil.copytree(parts / "video", tmp_path / "video")
    for folder in (whole, video):
        (folder / "model.safetensors").write_bytes(header)
    with pytest.raises(InputError, match="damaged or cut off"):
        load_checkpoint(whole, settings(parts), verify=False)
    with pytest.raises(InputError, match="cannot be loaded"):
        load_video_encoder(str(video), 4)
    (tmp_path / "cache.safetensors").write_bytes(header)
    with pytest.raises(InputError, match="damaged"):
        CacheFile(tmp_path / "cache.safetensors")


def huge(*shape: int) -> torch.Tensor:
    """One number that says it is many."""
    return torch.zeros([1] * len(shape)).expand(*shape)


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"llm.a": huge(10**12), "module.llm.a": huge(10**12)}, "more numbers than the file holds"),
        ({"text_encoder.embeddings.word_embeddings.weight": huge(2, 10**12)}, "more numbers than the file holds"),
        ({"llm.h.0.c_attn.lora_A.default.weight": huge(10**9, 8)}, "more numbers than the file holds"),
        ({"llm.a": torch.zeros(2, device="meta")}, "not a plain tensor"),
        ({"llm.a": torch.eye(2).to_sparse()}, "not a plain tensor"),
        ({"llm.a": torch.zeros(2, dtype=torch.complex64)}, "not a plain tensor"),
        ({"\x1b[2Jx\nsurgvivqa: all is well": torch.zeros(1)}, "control characters"),
        ({"llm." * 10_000 + "x": torch.zeros(1)}, "too long"),
    ],
)
def test_an_invalid_state_dict_is_refused(tensors: dict[str, Any], message: str, parts: Path, tmp_path: Path) -> None:
    torch.save(tensors, tmp_path / "wild.pth")
    with pytest.raises(InputError, match=message) as raised:
        load_checkpoint(tmp_path / "wild.pth", settings(parts))
    assert str(raised.value).isprintable() and len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "item", [["VID01", 1, 2, -1, 0], [["x"], 1, 2, 1, 0], ["VID01", 1.5, 2, 1, 0], ["VID01", 1, 2, float("inf"), 0]]
)
def test_a_forged_cache_file_is_refused(item: list[Any], tmp_path: Path) -> None:
    index_text = json.dumps({"format": 1, "fingerprint": "f", "dtype": "fp32", "width": 4, "items": [item]})
    content = {"index": index_text, "index_crc32": str(zlib.crc32(index_text.encode()))}
    rows = {"dtype": "F32", "shape": [1, 4], "data_offsets": [0, 16]}
    header = json.dumps({"__metadata__": content, "rows": rows}).encode()
    (tmp_path / "VID01.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 16)
    with pytest.raises(InputError, match="is damaged"):
        CacheFile(tmp_path / "VID01.safetensors")


@pytest.mark.parametrize(
    "forged",
    [
        {"code": [7]},
        {"code": [-1]},
        {"label": [99]},
        {"answer": [5]},
        {"counts": [3]},
        {"counts": [-1]},
        {"about": DEEP},
        {"about": "[]"},
        {"about": "{}"},
    ],
)
def test_a_forged_index_is_rebuilt(forged: dict[str, Any], tmp_path: Path) -> None:
    """With the right checksum, which anybody can compute."""
    (tmp_path / "q" / "VID01").mkdir(parents=True)
    (tmp_path / "q" / "VID01" / "1.txt").write_text("a\nb\nHow many tools are there?|2\n")
    frames, _ = index.open_questions(tmp_path / "q", ["VID01"], index_dir=tmp_path / "i")
    (path,) = (tmp_path / "i").glob("*.arrow")
    (batch,) = index._read_batches(path)
    columns = {name: batch.column(name).to_pylist() for name in batch.schema.names}
    columns |= {name: [value] for name, value in forged.items()}
    arrays = [pa.array(columns[f.name], f.type) for f in schema()]
    path.unlink()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema()) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema()))
    with path.open("ab") as file:
        file.write(index._digest(path.read_bytes()))
    assert index._read_batches(path) == []
    again, _ = index.open_questions(tmp_path / "q", ["VID01"], index_dir=tmp_path / "i")
    assert list(again) == list(frames)


# --- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", f"--cache=https://jane:{TOKEN}@hub.example/c"],
        ["train", f"--cache={TOKEN}"],
        ["train", "--log-file", "ftp://jane:secret-word@host.example/x"],
        ["eval", f"--checkpoint=https:/jane:{TOKEN}@hub.example/c"],
        ["train", "--config", "CONFIG"],
        ["train", "--cache-dtype", TOKEN],
        ["train", "--cache=https://glpat-secret-word@host.example/x"],
        ["convert", f"--checkpoint=x/{TOKEN}", "--output=y"],
    ],
)
def test_flags_with_tokens_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CONFIG").write_text(f"video_model: https://jane:{TOKEN}@hub.example/x\n")
    said = refused(capsys, *arguments)
    assert "looks like a token" in said and TOKEN not in said and "secret-word" not in said
    assert [p.name for p in tmp_path.iterdir()] == ["CONFIG"]


def test_a_token_of_the_environment_is_in_no_file(
    data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, TOKEN)
    run = tmp_path / "run"
    flags = ["--preset=tiny", "--workers=0", "--max-steps=1", "--val-max-samples=4", f"--checkpoint-dir={run}"]
    assert main(["train", *flags, *data_flags]) == 0
    assert main(["eval", f"--checkpoint={run}", "--workers=0", "--max-samples=4"]) == 0
    assert main(["convert", f"--checkpoint={run}", f"--output={tmp_path}/hf"]) == 0
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) > 10 and not [p for p in files if TOKEN.encode() in p.read_bytes()]
    message = capsys.readouterr()
    assert TOKEN not in message.out + message.err
    monkeypatch.setenv("SSGVQA_ROOT", f"https://jane:{TOKEN}@hub.example/x")
    said = refused(capsys, "train", "--preset=tiny", f"--checkpoint-dir={tmp_path}/two")
    assert "--ssgvqa-root holds" in said and TOKEN not in said


def test_the_log_and_the_sentences_are_masked(capsys: pytest.CaptureFixture[str]) -> None:
    record = logging.LogRecord("surgvivqa", logging.INFO, "", 0, "at %s with %s", ("https:/a:b@c", TOKEN), None)
    assert mask_record(record) and record.getMessage() == "at https:/***@c with hf_***"
    assert mask_secrets("https://jane:pw@hub/x") == "https://***@hub/x"
    for path in ("/data/hf_models/x", "/scratch/hf_datasets", "/data/a:/b@c", "/mnt/nas:/vol@2024", "jane@host:/x"):
        assert mask_secrets(path) == path and not holds_secret(path)
    assert not holds_secret("/data/hf_models/x") and not holds_secret("C:/a@b") and not holds_secret("user/model@main")
    assert refused(capsys, "\x1b[31mx\nsurgvivqa: fine").isprintable()


# --- text that is shown --------------------------------------------------------------------------------------------


def test_check_prints_no_control_characters(
    synthetic_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    questions = Path(shutil.copytree(synthetic_set / "ssg-qa", tmp_path / "ssg-qa"))
    for video in ("VID04", "VID02"):
        path = min((questions / video).glob("*.txt"))
        path.write_text(path.read_text() + "\nno pipe \x1b[2J here\nq?|\x1b]0;x\x07unknown\n\u202eq?|a|b|c\n")
    flags = [f"--ssgvqa-root={questions}", f"--image-root={synthetic_set}/frames"]
    main(["check", "--preset=tiny", *flags, f"--splits-dir={synthetic_set}/splits"])
    message = capsys.readouterr().out
    assert "no pipe" in message and not {"\x1b", "\x07", "\u202e"} & set(message)


def test_a_model_card_renders_no_foreign_markup(tmp_path: Path) -> None:
    evil = "x`<img src=a onerror=alert(1)>|[a](javascript:b)\n# Title"
    made_of = settings(tmp_path, video_model=evil, decoder_model=f"/somewhere/{evil}")
    row = {"n": 1, **dict.fromkeys(METRICS, 0.5)}
    groups = {"by_type": {evil: row}, "by_reasoning": {evil: row}, "by_video": {evil: row}}
    scored = {"split": evil, "max_samples": None, "mask": evil, "prompt_mode": evil, "score_norm": evil}
    report = EvaluationReport.from_json(row | groups | scored)
    run = RunRecord({"lr": evil, "seed": [evil], "schedule": {evil: evil}}, (evil,))
    text = write_model_card(tmp_path, made_of, run, report, [(evil, 1, 2)]).read_text()
    body = text.partition("\n---\n")[2]
    for forbidden in ("<img", "](javascript", "\n# Title", "`<"):
        assert forbidden not in body, forbidden
