"""The cache of text states: a hit equals a miss bit for bit, losses equal those without a cache, no encoder runs."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from surgvivqa.cli import main
from surgvivqa.config import TrainConfig
from surgvivqa.data.index import open_questions
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.ahead import WindowEncoder
from surgvivqa.features.batches import Ahead, TrainingWindows, plan_micro_batches
from surgvivqa.features.text_reader import TextInputs
from surgvivqa.features.text_states import TextStateSource, build_text_state_source
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.freezing import set_modes
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.training.run_log import TIMINGS

TINY = ["--preset=tiny", "--workers=0", "--log-interval=1", "--num-frames=4"]
STEPS = ["--max-steps=4", "--batch-size=12", "--questions-per-frame=5", "--val-max-samples=6"]
DATA_FLAGS = ["--ssgvqa-root", "--image-root", "--splits-dir"]


@pytest.fixture(scope="module")
def base(synthetic_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run to start from, so that the encoders of later runs are frozen."""
    folder = tmp_path_factory.mktemp("base") / "run"
    roots = zip(DATA_FLAGS, ("ssg-qa", "frames", "splits"), strict=True)
    flags = [*(f"{flag}={synthetic_set / name}" for flag, name in roots), f"--checkpoint-dir={folder}"]
    assert main(["train", *TINY, *flags, "--max-steps=1", "--val-max-samples=2", "--save-every-steps=0"]) == 0
    return folder


def train(base: Path, data_flags: list[str], folder: Path, *flags: str) -> list[dict[str, float]]:
    """The lines of ``metrics.jsonl`` without the timings."""
    start = [f"--pretrained-ckpt={base}", f"--checkpoint-dir={folder}", "--save-every-steps=0"]
    assert main(["train", *TINY, *STEPS, *data_flags, *start, *flags]) == 0
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in TIMINGS} for line in lines]


def count_cached_frames(folder: Path) -> tuple[int, int]:
    """The numbers of frames whose text states were read and computed, from the log."""
    match = re.search(r"text states of (\d+) frames read, of (\d+) computed", (folder / "train.log").read_text())
    assert match is not None
    return int(match[1]), int(match[2])


class Setup:
    """A model in training mode with its feature sources, and the questions about a training video."""

    def __init__(self, base: Path, root: Path, cache: Path, dtype: str = "fp32", **flags: Any) -> None:
        config = TrainConfig(preset="tiny", pretrained_ckpt=base, num_frames=4, cache=cache, cache_text=True, **flags)
        self.bundle = build_for_training(config)
        set_modes(self.bundle.model)
        self.prompt_tokenizer = self.bundle.prompt_tokenizer()
        store = self.bundle.frame_store(root / "frames")
        video_source = build_video_token_source(self.bundle, store, cache, dtype)
        self.uncached_source = build_video_token_source(self.bundle, store)
        self.text_source: TextStateSource = build_text_state_source(
            self.bundle, video_source, self.prompt_tokenizer, cache, dtype
        )
        self.frames = list(open_questions(root / "ssg-qa", ["VID04"])[0])

    def losses(self, micro_batch: list[tuple[int, list[int]]], source: Any) -> torch.Tensor:
        """The losses ``[Q]`` of a micro-batch with the inputs of a feature source."""
        mask = self.bundle.settings.mask
        ahead = Ahead("text")
        window = TrainingWindows(self.frames, source.reader, self.prompt_tokenizer, mask, [micro_batch], ahead)[0]
        encoder = WindowEncoder(self.bundle.model.eval(), self.uncached_source, source, "text", ahead.frames_per_pass)
        ((batch, inputs),) = encoder.batches(window)
        with torch.no_grad():
            return self.bundle.model(batch.packed, **inputs)

    def assert_close_losses(self, micro_batch: list[tuple[int, list[int]]]) -> None:
        """Asserts that a micro-batch has the same losses with cached text states as without a cache."""
        cached, uncached = (self.losses(micro_batch, source) for source in (self.text_source, self.uncached_source))
        torch.testing.assert_close(cached, uncached, rtol=0, atol=1e-5)

    def is_cached(self, frame: FrameQuestions) -> bool:
        reader = self.text_source.reader
        return self.text_source.cache.has(*reader.cache_key(frame, reader.prompt_trees(frame)))


@pytest.mark.parametrize("flags", [["--cache-dtype=fp16"], ["--cache-dtype=fp32", "--mask=causal", "--workers=1"]])
def test_a_run_that_fills_the_cache_and_one_that_reads_it_have_equal_losses(
    base: Path, data_flags: list[str], tmp_path: Path, flags: list[str]
) -> None:
    cached = [*flags, f"--cache={tmp_path / 'cache'}", "--cache-text"]
    first = train(base, data_flags, tmp_path / "first", *cached)
    second = train(base, data_flags, tmp_path / "second", *cached)
    assert len([line["loss"] for line in first if "loss" in line]) == 4
    assert first == second
    read, computed = count_cached_frames(tmp_path / "first")
    assert computed == 4  # each frame once, although its questions are in several batches
    assert count_cached_frames(tmp_path / "second") == (read + computed, 0)


def test_losses_are_close_with_and_without_a_cache(base: Path, data_flags: list[str], tmp_path: Path) -> None:
    uncached = train(base, data_flags, tmp_path / "uncached")
    flags = [f"--cache={tmp_path / 'cache'}", "--cache-text", "--cache-dtype=fp32"]
    cached = train(base, data_flags, tmp_path / "cached", *flags)
    assert [line.keys() for line in uncached] == [line.keys() for line in cached]
    for expected, actual in zip(uncached, cached, strict=True):
        assert actual == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("mask", ["prefix", "causal"])
def test_micro_batches_with_some_questions_of_a_frame_have_the_losses_without_a_cache(
    base: Path, synthetic_set: Path, tmp_path: Path, mask: str
) -> None:
    setup = Setup(base, synthetic_set, tmp_path, mask=mask)
    counts = [len(f.questions) for f in setup.frames]
    seen = 0
    for micro_batch in plan_micro_batches(counts, 9, 4, seed=0, epoch=0):
        setup.assert_close_losses(micro_batch)
        seen += sum(len(chosen) for _, chosen in micro_batch)
    assert seen == sum(counts)
    assert setup.text_source.misses == len(setup.frames) == 4
    setup.text_source.flush()
    reader = setup.text_source.reader
    lengths = {len(tree.prompt) + len(tree.tokens) for f in setup.frames for tree in reader.prompt_trees(f)}
    assert len(lengths) > 1  # so that a wrong offset would be detected


def test_a_batch_can_have_hits_and_misses(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    setup = Setup(base, synthetic_set, tmp_path)
    setup.losses([(1, [0]), (3, [0])], setup.text_source)
    setup.text_source.flush()
    micro_batch = [(0, [2, 0]), (1, [5, 1]), (2, [3]), (3, [4, 0, 2])]
    inputs = setup.text_source.reader.read_requests([(setup.frames[f], chosen) for f, chosen in micro_batch])
    assert [uncached is None for uncached in inputs.uncached] == [False, True, False, True]
    setup.assert_close_losses(micro_batch)
    assert (setup.text_source.hits, setup.text_source.misses) == (2, 4)


def test_every_change_of_a_text_state_is_a_miss(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    setup = Setup(base, synthetic_set, tmp_path)
    frame = setup.frames[0]
    first = frame.questions[0]
    setup.losses([(0, [0])], setup.text_source)
    setup.text_source.flush()
    assert setup.is_cached(frame)
    changed = dataclasses.replace(first, question=first.question + "?")
    assert not setup.is_cached(FrameQuestions(frame.video, frame.frame, (changed, *frame.questions[1:])))
    assert not setup.is_cached(FrameQuestions(frame.video, frame.frame, frame.questions[1:]))
    for flags in ({"prompt_mode": "choices", "max_length": 1024}, {"mask": "causal"}, {"video_pool": "temporal"}):
        assert not Setup(base, synthetic_set, tmp_path, **flags).is_cached(frame)
    assert not Setup(base, synthetic_set, tmp_path, dtype="fp16").is_cached(frame)
    assert Setup(base, synthetic_set, tmp_path, lora_r=8).is_cached(frame)  # the decoder does not change text states


@pytest.mark.parametrize("mask", ["prefix", "causal"])
def test_the_states_of_answer_tokens_are_cached(base: Path, synthetic_set: Path, tmp_path: Path, mask: str) -> None:
    setup = Setup(base, synthetic_set, tmp_path, mask=mask)
    # The tiny tokenizer has one token per label, and training feeds all but the last. These labels have one to three.
    setup.prompt_tokenizer.label_ids[:] = [[300 + n, 400, 401][: 1 + n % 3] for n in range(51)]
    frame = setup.frames[0]
    micro_batch = [(0, list(range(len(frame.questions)))[::-1]), (1, [3, 1])]
    assert {len(tree.tokens) for tree in setup.text_source.reader.prompt_trees(frame)} == {0, 1, 2}
    for _ in ("miss", "hit"):
        setup.assert_close_losses(micro_batch)
        setup.text_source.flush()
    assert (setup.text_source.hits, setup.text_source.misses) == (2, 2)
    index = next(n for n, q in enumerate(frame.questions) if q.label % 3)
    changed = dataclasses.replace(frame.questions[index], label=(frame.questions[index].label + 3) % 51)
    questions = (*frame.questions[:index], changed, *frame.questions[index + 1 :])
    assert not setup.is_cached(FrameQuestions(frame.video, frame.frame, questions))


def test_cached_states_are_computed_in_float32_under_mixed_precision(
    base: Path, synthetic_set: Path, tmp_path: Path
) -> None:
    states = []
    for is_mixed in (False, True):
        setup = Setup(base, synthetic_set, tmp_path / str(is_mixed))
        inputs = setup.text_source.reader.read_requests([(setup.frames[0], [0, 1])])
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            states.append(setup.text_source(inputs))
    assert torch.equal(*states)


def test_the_cache_key_depends_on_where_a_prompt_ends(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    setup = Setup(base, synthetic_set, tmp_path)
    reader, frame = setup.text_source.reader, setup.frames[0]
    tree = reader.prompt_trees(frame)[0]
    shorter = dataclasses.replace(tree, prompt=[*tree.prompt[:-1]], tokens=[tree.prompt[-1], *tree.tokens])
    assert reader.cache_key(frame, [tree]) != reader.cache_key(frame, [shorter])


def test_the_fingerprint_depends_on_weights_and_heads(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    def fingerprint(change: Any = None) -> str:
        setup = Setup(base, synthetic_set, tmp_path)
        if change is not None:
            change(setup.bundle.model)
        return build_text_state_source(
            setup.bundle, setup.text_source.video_source, setup.prompt_tokenizer, tmp_path, "fp32"
        ).cache.fingerprint

    def change_bias(model: SurgViVQAModel) -> None:
        model.text_encoder.encoder.layer[0].crossattention.self.key.bias.data[0] += 1e-6

    def change_heads(model: SurgViVQAModel) -> None:
        model.config.text_config.num_attention_heads = 2  # changes no tensor's shape

    def change_pooler(model: SurgViVQAModel) -> None:
        model.text_encoder.pooler.dense.bias.data[0] += 1  # its output is not used

    plain = fingerprint()
    assert len({plain, fingerprint(change_bias), fingerprint(change_heads)}) == 3
    assert fingerprint() == fingerprint(change_pooler) == plain


def test_with_a_full_cache_no_encoder_runs_and_no_image_is_opened(
    base: Path, data_flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = [f"--cache={tmp_path / 'cache'}", "--cache-text", "--val-max-samples=0"]
    first = train(base, data_flags, tmp_path / "first", *cached)
    called: list[str] = []

    def spy(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def record_call(*args: Any, **kwargs: Any) -> Any:
            called.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, record_call)

    for name in ("encode_video", "text_states", "decoder_states"):
        spy(SurgViVQAModel, name)
    spy(Image, "open")
    assert train(base, data_flags, tmp_path / "second", *cached) == first
    assert set(called) == {"decoder_states"}
    train(base, data_flags, tmp_path / "uncached", "--val-max-samples=0")
    assert set(called) == {"decoder_states", "encode_video", "text_states", "open"}  # the spies work


def fill_cache(base: Path, data_flags: list[str], cache: Path, *flags: str) -> int:
    start = ["cache", *TINY[:2], TINY[3], f"--pretrained-ckpt={base}", *data_flags, f"--cache={cache}"]
    return main([*start, "--cache-text", *flags])


def test_the_command_fills_the_cache_that_training_reads(base: Path, data_flags: list[str], tmp_path: Path) -> None:
    cached = ["--cache-text", "--prompt-mode=choices", "--max-length=1024", "--val-max-samples=0"]
    expected = train(base, data_flags, tmp_path / "other", *cached, f"--cache={tmp_path / 'other-cache'}")
    assert fill_cache(base, data_flags, tmp_path / "c", "--verify", *cached[1:3]) == 0
    files = list((tmp_path / "c").rglob("*.safetensors"))
    # Video tokens of all three videos, and text states of the training video.
    assert sorted(p.name for p in files) == [f"VID0{n}.safetensors" for n in (1, 2, 4, 4)]
    assert train(base, data_flags, tmp_path / "run", *cached, f"--cache={tmp_path / 'c'}") == expected
    assert count_cached_frames(tmp_path / "run")[1] == 0
    # A second call writes only the file that is missing.
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in files}
    missing = next(p for p in files if json.loads((p.parent / "manifest.json").read_text())["made_of"].get("mask"))
    missing.unlink()
    assert fill_cache(base, data_flags, tmp_path / "c", *cached[1:3]) == 0
    assert [p for p in files if p.stat().st_mtime_ns != before[p][0]] == [missing]
    assert missing.read_bytes() == before[missing][1]


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--splits=val,test"], "leaves out train"),
        (["--mask=bidirectional"], "--mask bidirectional"),
        (["--checkpoint=x"], "takes --pretrained-ckpt"),
    ],
)
def test_the_command_refuses_settings_under_which_training_does_not_read_the_cache(
    base: Path, data_flags: list[str], tmp_path: Path, flags: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fill_cache(base, data_flags, tmp_path / "c", *flags) == 2
    assert word in capsys.readouterr().err


def test_only_adapters_get_gradients_and_all_of_them_do(base: Path, synthetic_set: Path, tmp_path: Path) -> None:
    setup = Setup(base, synthetic_set, tmp_path)
    model = setup.bundle.model
    source = setup.text_source
    windows = TrainingWindows(
        setup.frames, source.reader, setup.prompt_tokenizer, "prefix", [[(0, [0, 1])]], Ahead("text")
    )
    assert isinstance(windows[0].inputs, TextInputs)
    ((batch, inputs),) = WindowEncoder(model, setup.uncached_source, source, "text", 1).batches(windows[0])
    model(batch.packed, **inputs).sum().backward()
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
def test_settings_that_change_cached_features_are_refused_in_one_sentence(
    base: Path, data_flags: list[str], tmp_path: Path, flags: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f.replace("=C", f"={tmp_path / 'c'}") for f in flags]
    start = [f"--pretrained-ckpt={base}", f"--checkpoint-dir={tmp_path}/r"]
    assert main(["train", *TINY, *data_flags, *start, *given]) == 2
    output = capsys.readouterr().err
    assert word in output
    assert len([line for line in output.splitlines() if line.startswith("surgvivqa:")]) == 1
    assert not (tmp_path / "c").exists()


def test_check_reports_cache_text_without_a_cache_folder(
    base: Path, data_flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *TINY, *data_flags, f"--pretrained-ckpt={base}", "--cache-text"]) == 1
    output = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL"))
    assert "model" in output
    assert "--cache DIR" in output
