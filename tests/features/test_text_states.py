"""The cache of text states: a hit is a miss bit for bit, equal to the live run, and GPT-2 then runs alone."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from surgvivqa.cli import main
from surgvivqa.config import TrainConfig
from surgvivqa.data.index import open_questions
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.batches import TrainingBatches, micro_batches
from surgvivqa.features.text_reader import TextInputs
from surgvivqa.features.text_states import TextStateSource, build_text_state_source
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.training.initial_model import build_for_training

TINY = ["--preset=tiny", "--workers=0", "--log-interval=1", "--num-frames=4"]
STEPS = ["--max-steps=4", "--batch-size=12", "--questions-per-frame=5", "--val-max-samples=6"]
SET = ["--ssgvqa-root", "--image-root", "--splits-dir"]


@pytest.fixture(scope="module")
def base(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run to start from, so that its encoders are frozen in the next."""
    folder = tmp_path_factory.mktemp("base") / "run"
    roots = zip(SET, ("ssg-qa", "frames", "splits"), strict=True)
    flags = [*(f"{flag}={synthetic_set / name}" for flag, name in roots), f"--checkpoint-dir={folder}"]
    assert main(["train", *TINY, *flags, "--max-steps=1", "--val-max-samples=2", "--save-every-steps=0"]) == 0
    return folder


def train(base: Path, data_flags: list[str], folder: Path, *flags: str) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl`` without the timings."""
    start = [f"--pretrained-ckpt={base}", f"--checkpoint-dir={folder}", "--save-every-steps=0"]
    assert main(["train", *TINY, *STEPS, *data_flags, *start, *flags]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "questions_per_second"} for line in lines]


def counted(folder: Path) -> tuple[int, int]:
    """Frames whose text was read, and frames whose text was computed."""
    line = next(line for line in (folder / "train.log").read_text().splitlines() if "text of" in line)
    words = line.replace(",", "").split()
    return int(words[words.index("text") + 2]), int(words[-2])


class Setting:
    """A model in training with its text states, and the training questions of the synthetic set."""

    def __init__(self, base: Path, root: Path, cache: Path, dtype: str = "fp32", **flags: Any) -> None:
        config = TrainConfig(preset="tiny", pretrained_ckpt=base, num_frames=4, cache=cache, cache_text=True, **flags)
        self.bundle = build_for_training(config)
        set_modes(self.bundle.model)
        self.prompts = self.bundle.prompt_tokenizer()
        video = build_video_token_source(self.bundle, self.bundle.frame_store(root / "frames"), cache, dtype)
        self.live = build_video_token_source(self.bundle, self.bundle.frame_store(root / "frames"))
        self.text: TextStateSource = build_text_state_source(self.bundle, video, self.prompts, cache, dtype)
        self.frames = list(open_questions(root / "ssg-qa", ["VID04"])[0])

    def losses(self, picked: list[tuple[int, list[int]]], feed: Any) -> torch.Tensor:
        batch = TrainingBatches(self.frames, feed.reader, self.prompts, self.bundle.settings.mask, [picked])[0]
        with torch.no_grad():
            return self.bundle.model.eval()(batch.packed, **feed.model_inputs(batch.inputs))

    def is_there(self, frame: FrameQuestions) -> bool:
        return self.text.cache.has(*self.text.reader.key(frame, self.text.reader.prompt_trees(frame)))


@pytest.mark.parametrize("flags", [["--cache-dtype=fp16"], ["--cache-dtype=fp32", "--mask=causal", "--workers=1"]])
def test_a_run_that_fills_and_one_that_hits_have_equal_losses(
    base: Path, data_flags: list[str], tmp_path: Path, flags: list[str]
) -> None:
    cached = [*flags, f"--cache={tmp_path / 'cache'}", "--cache-text"]
    filling = train(base, data_flags, tmp_path / "first", *cached)
    hitting = train(base, data_flags, tmp_path / "second", *cached)
    assert len([line["loss"] for line in filling if "loss" in line]) == 4
    assert filling == hitting
    read, computed = counted(tmp_path / "first")
    assert computed == 4  # each of the set's frames once, though its questions come in several batches
    assert counted(tmp_path / "second") == (read + computed, 0)


def test_cached_text_gives_the_live_runs_losses(base: Path, data_flags: list[str], tmp_path: Path) -> None:
    live = train(base, data_flags, tmp_path / "live")
    cached = train(base, data_flags, tmp_path / "c", f"--cache={tmp_path / 'd'}", "--cache-text", "--cache-dtype=fp32")
    assert [line.keys() for line in live] == [line.keys() for line in cached]
    for expected, found in zip(live, cached, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mask", ["prefix", "causal"])
def test_a_frames_questions_in_pieces_give_each_its_live_loss(
    base: Path, synthetic_set: Path, tmp_path: Path, mask: str
) -> None:
    its = Setting(base, synthetic_set, tmp_path, mask=mask)
    counts = [len(f.questions) for f in its.frames]
    seen = 0
    for picked in micro_batches(counts, 9, 4, seed=0, epoch=0):
        torch.testing.assert_close(its.losses(picked, its.text), its.losses(picked, its.live), rtol=0, atol=1e-5)
        seen += sum(len(chosen) for _, chosen in picked)
    assert seen == sum(counts)
    assert its.text.misses == len(its.frames) == 4
    its.text.flush()
    rows = {len(b.prompt) + len(b.tokens) for f in its.frames for b in its.text.reader.prompt_trees(f)}
    assert len(rows) > 1  # pieces of different lengths, so that a wrong offset would show


def test_a_batch_of_hits_and_misses_has_each_frames_own_states(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    its = Setting(base, synthetic_set, tmp_path)
    its.losses([(1, [0]), (3, [0])], its.text)
    its.text.flush()
    picked = [(0, [2, 0]), (1, [5, 1]), (2, [3]), (3, [4, 0, 2])]
    inputs = its.text.reader.read_requests([(its.frames[f], chosen) for f, chosen in picked])
    assert [uncached is None for uncached in inputs.uncached] == [False, True, False, True]
    torch.testing.assert_close(its.losses(picked, its.text), its.losses(picked, its.live), rtol=0, atol=1e-5)
    assert (its.text.hits, its.text.misses) == (2, 4)


def test_everything_that_changes_a_text_state_makes_a_miss(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    its = Setting(base, synthetic_set, tmp_path)
    frame = its.frames[0]
    first = frame.questions[0]
    its.losses([(0, [0])], its.text)
    its.text.flush()
    assert its.is_there(frame)
    changed = dataclasses.replace(first, question=first.question + "?")
    assert not its.is_there(FrameQuestions(frame.video, frame.frame, (changed, *frame.questions[1:])))
    assert not its.is_there(FrameQuestions(frame.video, frame.frame, frame.questions[1:]))
    for flags in ({"prompt_mode": "choices", "max_length": 1024}, {"mask": "causal"}, {"video_pool": "temporal"}):
        assert not Setting(base, synthetic_set, tmp_path, **flags).is_there(frame)
    assert not Setting(base, synthetic_set, tmp_path, dtype="fp16").is_there(frame)
    assert Setting(base, synthetic_set, tmp_path, lora_r=8).is_there(frame)  # GPT-2 has no part in it


@pytest.mark.parametrize("mask", ["prefix", "causal"])
def test_the_answer_tokens_that_are_fed_are_kept_too(
    base: Path, synthetic_set: Path, tmp_path: Path, mask: str
) -> None:
    its = Setting(base, synthetic_set, tmp_path, mask=mask)
    # The tiny tokenizer has one token a label, of which training feeds none; these have one to three.
    its.prompts.label_ids[:] = [[300 + n, 400, 401][: 1 + n % 3] for n in range(51)]
    frame = its.frames[0]
    picked = [(0, list(range(len(frame.questions)))[::-1]), (1, [3, 1])]
    assert {len(b.tokens) for b in its.text.reader.prompt_trees(frame)} == {0, 1, 2}
    for _ in ("miss", "hit"):
        torch.testing.assert_close(its.losses(picked, its.text), its.losses(picked, its.live), rtol=0, atol=1e-5)
        its.text.flush()
    assert (its.text.hits, its.text.misses) == (2, 2)
    which = next(n for n, q in enumerate(frame.questions) if q.label % 3)
    other = dataclasses.replace(frame.questions[which], label=(frame.questions[which].label + 3) % 51)
    questions = (*frame.questions[:which], other, *frame.questions[which + 1 :])
    assert not its.is_there(FrameQuestions(frame.video, frame.frame, questions))


def test_cached_states_are_computed_in_float32_under_mixed_precision(
    base: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    made = []
    for mixed in (False, True):
        its = Setting(base, synthetic_set, tmp_path / str(mixed))
        inputs = its.text.reader.read_requests([(its.frames[0], [0, 1])])
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            made.append(its.text(inputs))
    assert torch.equal(*made)


def test_where_a_prompt_ends_is_in_its_key(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    its = Setting(base, synthetic_set, tmp_path)
    reader, frame = its.text.reader, its.frames[0]
    block = reader.prompt_trees(frame)[0]
    moved = dataclasses.replace(block, prompt=[*block.prompt[:-1]], tokens=[block.prompt[-1], *block.tokens])
    assert reader.key(frame, [block]) != reader.key(frame, [moved])


def test_other_text_weights_and_heads_are_another_folder(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    def fingerprint(change: Any = None) -> str:
        its = Setting(base, synthetic_set, tmp_path)
        if change is not None:
            change(its.bundle.model)
        return build_text_state_source(its.bundle, its.text.video, its.prompts, tmp_path, "fp32").cache.fingerprint

    def other_bias(model: SurgViVQAModel) -> None:
        model.text_encoder.encoder.layer[0].crossattention.self.key.bias.data[0] += 1e-6

    def other_heads(model: SurgViVQAModel) -> None:
        model.config.text_config.num_attention_heads = 2  # no tensor's shape shows it

    def other_pooler(model: SurgViVQAModel) -> None:
        model.text_encoder.pooler.dense.bias.data[0] += 1  # nothing reads it

    plain = fingerprint()
    assert len({plain, fingerprint(other_bias), fingerprint(other_heads)}) == 3
    assert fingerprint() == fingerprint(other_pooler) == plain


def test_on_a_full_hit_no_encoder_runs_and_no_image_is_opened(
    base: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = [f"--cache={tmp_path / 'cache'}", "--cache-text", "--val-max-samples=0"]
    filling = train(base, data_flags, tmp_path / "first", *cached)
    called: list[str] = []

    def spy(owner: Any, name: str) -> None:
        own = getattr(owner, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return own(*args, **kwargs)

        monkeypatch.setattr(owner, name, counted)

    for name in ("encode_video", "text_states", "decoder_states"):
        spy(SurgViVQAModel, name)
    spy(Image, "open")
    assert train(base, data_flags, tmp_path / "second", *cached) == filling
    assert set(called) == {"decoder_states"}
    train(base, data_flags, tmp_path / "live", "--val-max-samples=0")
    assert set(called) == {"decoder_states", "encode_video", "text_states", "open"}  # the spies do see


def fill(base: Path, data_flags: list[str], cache: Path, *flags: str) -> int:
    start = ["cache", *TINY[:2], TINY[3], f"--pretrained-ckpt={base}", *data_flags, f"--cache={cache}"]
    return main([*start, "--cache-text", *flags])


def test_the_command_fills_the_cache_that_training_reads(base: Path, data_flags: list[str], tmp_path: Path) -> None:
    cached = ["--cache-text", "--prompt-mode=choices", "--max-length=1024", "--val-max-samples=0"]
    live = train(base, data_flags, tmp_path / "other", *cached, f"--cache={tmp_path / 'other-cache'}")
    assert fill(base, data_flags, tmp_path / "c", "--verify", *cached[1:3]) == 0
    files = list((tmp_path / "c").rglob("*.safetensors"))
    assert sorted(p.name for p in files) == [
        f"VID0{n}.safetensors" for n in (1, 2, 4, 4)
    ]  # video tokens of all three, text of training alone
    assert train(base, data_flags, tmp_path / "run", *cached, f"--cache={tmp_path / 'c'}") == live
    assert counted(tmp_path / "run")[1] == 0
    # Run again, it makes what is lost and nothing else.
    made = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}
    lost = next(p for p in files if json.loads((p.parent / "manifest.json").read_text())["made_of"].get("mask"))
    lost.unlink()
    assert fill(base, data_flags, tmp_path / "c", *cached[1:3]) == 0
    assert [p for p in files if p.stat().st_mtime_ns != made[p][0]] == [lost]
    assert lost.read_bytes() == made[lost][1]


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--splits=val,test"], "leaves out train"),
        (["--mask=bidirectional"], "--mask bidirectional"),
        (["--checkpoint=x"], "takes --pretrained-ckpt"),
    ],
)
def test_the_command_refuses_settings_that_training_would_not_read(
    base: Path, data_flags: list[str], tmp_path: Path, flags: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill(base, data_flags, tmp_path / "c", *flags) == 2
    assert word in capsys.readouterr().err


def test_gradients_reach_every_adapter_and_nothing_else(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    its = Setting(base, synthetic_set, tmp_path)
    model = its.bundle.model
    batch = TrainingBatches(its.frames, its.text.reader, its.prompts, "prefix", [[(0, [0, 1])]])[0]
    assert isinstance(batch.inputs, TextInputs)
    model(batch.packed, **its.text.model_inputs(batch.inputs)).sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        n for n, p in model.named_parameters() if "lora_" in n
    }


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--cache-text"], "--cache DIR"),
        (["--cache-text", "--cache=C", "--mask=bidirectional"], "--mask bidirectional"),
        (["--cache-text", "--cache=C", "--train-blip"], "leave out --cache-text, or --train-blip"),
        (["--cache-text", "--cache=C", "--unfreeze-blip-last-n=1"], "--unfreeze-blip-last-n 1"),
        (["--cache-text", "--cache=C", "--train-video=full"], "frozen video encoder"),
    ],
)
def test_settings_that_cannot_be_cached_are_refused_in_one_sentence(
    base: Path, data_flags: list[str], tmp_path: Path, flags: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f.replace("=C", f"={tmp_path / 'c'}") for f in flags]
    start = [f"--pretrained-ckpt={base}", f"--checkpoint-dir={tmp_path}/r"]
    assert main(["train", *TINY, *data_flags, *start, *given]) == 2
    said = capsys.readouterr().err
    assert word in said
    assert len([line for line in said.splitlines() if line.startswith("surgvivqa:")]) == 1
    assert not (tmp_path / "c").exists()


def test_check_reports_it_before_training(
    base: Path, data_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *TINY, *data_flags, f"--pretrained-ckpt={base}", "--cache-text"]) == 1
    said = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL"))
    assert "model" in said
    assert "--cache DIR" in said
