"""``surgvivqa check``: checks data, flags and model before a run, so that the run does not fail hours later."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgvivqa.commands.pretraining import check_pretraining
from surgvivqa.config import TrainConfig, check_ranges, clip_length, data_roots, flag
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frame_checks import Inspection, find_wrong_rates, inspect_frames
from surgvivqa.data.frame_views import show_black
from surgvivqa.data.frames import FrameStore, find_missing_frames, list_frames, suggest_missing_frames
from surgvivqa.data.index import IndexedFrames, concatenate_frames, frame_names
from surgvivqa.data.labels import LabelSet
from surgvivqa.data.overlaps import find_copies, find_links
from surgvivqa.data.packing import pack_training
from surgvivqa.data.prompts import Target
from surgvivqa.data.splits import SPLIT_NAMES, Splits
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.datasets.opening import Dataset
from surgvivqa.features.batches import TrainingWindows, plan_micro_batches
from surgvivqa.features.frame_reader import FrameReader
from surgvivqa.features.text_reader import TextReader
from surgvivqa.features.text_states import build_text_state_source
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.bundle import ModelBundle, build_frame_store
from surgvivqa.model.freezing import format_trainable_table, set_modes, trainable_fraction
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.training.data import open_run_dataset
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.training.trackers import check_importable, parse_trackers
from surgvivqa.utils.errors import FrameError, InputError, SurgViVQAError, one_line

Frames = Sequence[FrameQuestions]


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Attributes:
        name: the check.
        status: PASS, WARN or FAIL.
        message: the finding, as a sentence.
    """

    name: str
    status: str
    message: str


@dataclass(kw_only=True)
class CheckConfig(TrainConfig):
    """Checks data, flags and model before a run. Accepts train's flags."""

    json: bool = flag("Print the results as JSON.", False)
    frames_to_open: int = flag("Number of frames to decode, spread over the videos; 0 decodes all.", 200, least=0)


def check(config: CheckConfig) -> int:
    """Runs all checks and prints a line for each one.

    Returns:
        0 if no check failed, else 1.
    """
    results: list[Result] = []
    for result in run_checks(config):
        results.append(result)
        if not config.json:
            # Messages quote question files, which may hold control characters.
            message = "\n".join(map(one_line, result.message.split("\n")))
            print(f"{result.status:<5} {result.name:<12} {message}", flush=True)
    failed = sum(r.status == "FAIL" for r in results)
    if config.json:
        print(json.dumps([vars(r) for r in results], indent=2))
    else:
        print(f"{len(results)} checks, {failed} failed.")
    return 1 if failed else 0


def run_checks(config: CheckConfig) -> Iterator[Result]:
    """Yields the results of the checks in order; stops at a failure that later checks depend on."""
    try:
        with _required("flags"):
            check_ranges(config)
            check_importable(parse_trackers(config.report_to))
        yield Result("flags", "PASS", "every number is within its range.")
        with _required("data"):
            data_roots(config)
        with _required("splits"):
            dataset = open_run_dataset(config)
        yield _check_labels(dataset.label_set)
        splits = dataset.splits
        sizes = ", ".join(f"{name} {len(splits.videos(name))}" for name in SPLIT_NAMES)
        kind = "no test video in train or val" if splits.fold is None else f"fold {splits.fold} of a cross-validation"
        yield Result("splits", "PASS", f"{sizes} videos; no overlap, {kind}.")
        frames: dict[str, Frames] = {}
        for split in SPLIT_NAMES:
            result, frames[split] = _check_questions(config, dataset, split)
            yield result
        if config.pretrained_ckpt is None:
            yield Result("pretraining", *check_pretraining(config, dataset))
        if any(frames.values()):
            if dataset.is_ssgqa:
                yield _fail_on_error("overlap", _check_overlaps, config, splits)
            else:
                yield _check_shared_pictures(frames)
            yield from _check_frames(config, dataset, frames)
            yield from _check_model(config, dataset, frames)
    except _RequiredCheckFailedError as error:
        yield error.result


class _RequiredCheckFailedError(Exception):
    """A check that all later checks depend on has failed."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.message)
        self.result = result


@contextlib.contextmanager
def _required(name: str, consequence: str = "") -> Iterator[None]:
    """An expected error of the body ends the checks with a FAIL."""
    try:
        yield
    except SurgViVQAError as error:
        raise _RequiredCheckFailedError(Result(name, "FAIL", f"{error}{consequence}")) from error


def _fail_on_error(name: str, run_check: Callable[..., Result], *arguments: object) -> Result:
    """The result of a check; an expected error is a FAIL, and the checks continue."""
    try:
        return run_check(*arguments)
    except SurgViVQAError as error:
        return Result(name, "FAIL", str(error))


def _check_labels(label_set: LabelSet) -> Result:
    are_valid = all(label_set.index(label) == i for i, label in enumerate(label_set.labels))
    return Result("labels", "PASS" if are_valid else "FAIL", f"{len(label_set)} labels; each parses to its own index.")


def _check_questions(config: CheckConfig, dataset: Dataset, split: str) -> tuple[Result, Frames]:
    videos = dataset.splits.videos(split)
    if not videos:
        return Result(split, "WARN", "no video in this split."), IndexedFrames()
    try:
        frames, report = dataset.questions(videos, strict=config.strict)
    except SurgViVQAError as error:
        return Result(split, "FAIL", str(error)), IndexedFrames()
    left_out = ", ".join(f"{k} {v}" for k, v in sorted(report.skipped.items())) or "nothing"
    message = f"{report.questions} questions on {len(frames)} frames; left out: {left_out}."
    faults = report.describe_faults()
    if faults:
        message += f" Check {'; '.join(faults)}."
    return Result(split, "FAIL" if not frames else "WARN" if faults else "PASS", message), frames


@dataclass(frozen=True)
class _FrameGroup:
    """Frames that share a limit of bad frames, because one command reads them.

    Attributes:
        frames: the frames, with their questions.
        missing: video and number of the frames that do not exist.
        limit: the number of bad frames that the command accepts.
    """

    frames: Frames
    missing: Sequence[tuple[str, int]]
    limit: int


def _check_frames(config: CheckConfig, dataset: Dataset, frames: dict[str, Frames]) -> Iterator[Result]:
    """Checks that the frames exist, and opens a sample of them."""
    assert config.image_root is not None
    of_train, of_eval = concatenate_frames([frames["train"], frames["val"]]), frames["test"]
    try:
        length, files = clip_length(config), dataset.picture_files
        store = build_frame_store(config, config.image_root, length, files=files)
        groups = [
            _FrameGroup(group, find_missing_frames(store, group), _bad_frame_limit(config, group))
            for group in (of_train, of_eval)
            if group
        ]
        yield _check_existence(store, groups)
        if files is None:
            yield _check_rates(store, concatenate_frames([group.frames for group in groups]))
        yield _check_images(store, groups, config.frames_to_open)
    except InputError as error:
        yield Result("frames", "FAIL", str(error))


def _check_existence(store: FrameStore, groups: Sequence[_FrameGroup]) -> Result:
    total, missing = sum(len(group.frames) for group in groups), [name for group in groups for name in group.missing]
    if not missing:
        return Result("frames", "PASS", f"all {total} frames exist.{_describe_other_files(store, groups)}")
    exceeded = any(len(group.missing) > group.limit for group in groups)
    first = ", ".join(str(store.path(*name)) for name in missing[:3])
    skipped = "" if exceeded else f"; up to {' and '.join(str(group.limit) for group in groups)} are skipped"
    hint = suggest_missing_frames(store, missing, *(group.frames for group in groups))
    message = f"{len(missing)} of {total} frames are missing (first: {first}){skipped}.{hint}"
    return Result("frames", "FAIL" if exceeded else "WARN", message)


def _describe_other_files(store: FrameStore, groups: Sequence[_FrameGroup]) -> str:
    """A sentence about files in the videos' folders that are no frames, which are not used."""
    if store.files is not None:
        return ""
    videos = dict.fromkeys(video for group in groups for video, _ in frame_names(group.frames))
    others = [(video, name) for video in videos for name in list_frames(store, video)[1]]
    if not others:
        return ""
    return f" {len(others)} other files are not used (first: {store.root / others[0][0] / others[0][1]})."


def _check_rates(store: FrameStore, frames: Frames) -> Result:
    wrong = find_wrong_rates(store, frames)
    if not wrong:
        return Result("rate", "PASS", "no video has far more frames than seconds.")
    video, count, highest = wrong[0]
    return Result(
        "rate",
        "WARN",
        f"{len(wrong)} videos have far more frames than seconds (first: {video} has {count} frames, but its highest "
        f"question number is {highest}). Questions are about seconds: extract one frame per second.",
    )


def _check_images(store: FrameStore, groups: Sequence[_FrameGroup], frames_to_open: int) -> Result:
    """Opens a sample of the frames that exist; ``frames_to_open`` of 0 opens all."""
    findings, num_existing, exceeded = Inspection(), 0, False
    total = sum(len(group.frames) for group in groups)
    for group in groups:
        missing = set(group.missing)
        existing = [f for f in group.frames if (f.video, f.frame) not in missing]
        sample_size = math.ceil(frames_to_open * len(group.frames) / total)
        sample = existing[:: max(1, len(existing) // sample_size) if sample_size else 1]
        inspection = inspect_frames(store, sample)
        if inspection.unreadable:  # extrapolate from the sample to all frames
            expected = len(missing) + len(inspection.unreadable) * len(existing) / len(sample)
            exceeded |= expected > group.limit
        num_existing += len(existing)
        findings.add(inspection)
    message = f"{findings.opened} of {num_existing} frames opened"
    if not findings.opened:
        return Result("images", "FAIL", f"{message}; no frame exists.")
    problems = findings.describe()
    if findings.unreadable:
        problems.insert(0, f"{len(findings.unreadable)} cannot be used: {' '.join(findings.unreadable[:3])}")
    if not problems:
        return Result("images", "PASS", f"{message}.")
    return Result("images", "FAIL" if exceeded else "WARN", f"{message}, {' '.join(problems)}")


def _check_overlaps(config: CheckConfig, splits: Splits) -> Result:
    """Checks that no video occurs under several names, by links and by equal files."""
    split_of = {video: name for name in SPLIT_NAMES for video in splits.videos(name)}
    videos = list(split_of)
    overlaps = []
    for root, suffix in ((config.ssgvqa_root, ".txt"), (config.image_root, ".png")):
        assert root is not None
        overlaps += [*find_links(root, videos), *find_copies(root, videos, suffix)]
    if not overlaps:
        return Result("overlap", "PASS", "no two videos have the same questions or frames.")
    across = [o for o in overlaps if split_of[o.first] != split_of[o.second]]
    worst = (across or overlaps)[0]
    pair = f"{worst.first} ({split_of[worst.first]}) and {worst.second} ({split_of[worst.second]}) {worst.how}"
    if across:
        return Result("overlap", "FAIL", f"{pair}, so splits share a video; take it out of one of them.")
    return Result("overlap", "WARN", f"{pair}; the video counts twice.")


def _check_shared_pictures(frames: dict[str, Frames]) -> Result:
    """Checks that no picture is shown to the questions of two splits, whatever their videos are called."""
    split_of: dict[str, str] = {}
    for split in SPLIT_NAMES:
        for frame in frames[split]:
            picture = frame.questions[0].image or ""
            other = split_of.setdefault(picture, split)
            if other != split:
                message = f"{picture} is a picture of {other} and of {split}, so splits share frames; split by video."
                return Result("overlap", "FAIL", message)
    return Result("overlap", "PASS", f"no two splits share a picture ({len(split_of)} pictures).")


def _bad_frame_limit(config: CheckConfig, frames: Sequence[FrameQuestions]) -> int:
    return BadFrames(config.on_bad_frame, config.max_bad_frames, len(frames)).limit


def _check_model(config: CheckConfig, dataset: Dataset, frames: dict[str, Frames]) -> Iterator[Result]:
    """Builds the model as ``train`` does and checks it on the data."""
    train = frames["train"]
    if not train:
        yield Result("model", "FAIL", "there are no training questions, so the model was not checked.")
        return
    with _required("model", consequence=" (prompts, leak, loss and gradients were not checked)"):
        bundle = build_for_training(config, dataset.label_set)
    percentage = 100 * trainable_fraction(bundle.model)
    yield Result("model", "PASS", f"built; {percentage:.4f}% trainable:\n{format_trainable_table(bundle.model)}")
    if config.pretrained_ckpt is not None:
        yield Result("pretraining", *check_pretraining(config, dataset, bundle))
    all_frames = concatenate_frames(list(frames.values()))
    yield _fail_on_error("tokens", _check_label_tokens, bundle)
    yield _fail_on_error("prompts", _check_prompts, bundle, all_frames, config.target)
    yield _check_leak(bundle, train)
    if config.cache is not None:
        yield _fail_on_error("cache", _check_cache, bundle, dataset, all_frames, config)
    with _required("loss"):
        losses, result = _check_loss(bundle, dataset, train, config)
    yield result
    if result.status == "PASS":
        yield _check_gradients(bundle.model, losses)


def _check_label_tokens(bundle: ModelBundle) -> Result:
    tokenizer = bundle.prompt_tokenizer()
    trie = LabelTrie(tokenizer.label_ids)
    prefixes = len(tokenizer.terminated)
    ending = f"{prefixes} are prefixes of others and end with end-of-text" if prefixes else "no label is a prefix"
    longest = int(trie.lengths.max())
    return Result("tokens", "PASS", f"labels have 1 to {longest} tokens, {ending}; {len(trie.tokens)} inner nodes.")


def _check_prompts(bundle: ModelBundle, frames: Sequence[FrameQuestions], target: Target) -> Result:
    tokenizer = bundle.prompt_tokenizer(target)
    tokenizer.check_fits(frames)
    longest = tokenizer.longest_prompt(frames)[0]
    return Result("prompts", "PASS", f"longest prompt with answer: {longest} of {tokenizer.max_length} tokens.")


def _check_leak(bundle: ModelBundle, train: Sequence[FrameQuestions]) -> Result:
    """Compares a prompt's logits under two answers of equal length; they must be bit-identical."""
    tokenizer, model, mask = bundle.prompt_tokenizer(), bundle.model.eval(), bundle.settings.mask
    ids, video = tokenizer.prompt_ids(train[0].questions[0].question), model.config.video_config
    clip = torch.zeros(1, video.num_frames, 3, video.image_size, video.image_size)
    # Three tokens each: the last token of an answer is not an input, so it cannot leak.
    answers = [(tokenizer.label_ids[i] * 3)[:3] for i in (0, min(11, len(tokenizer.label_ids) - 1))]
    with torch.inference_mode():
        tokens = model.encode_video(clip)
        logits = [model.stream_logits(pack_training([[ids]], [[a]], mask), tokens)[: len(ids)] for a in answers]
    difference = float((logits[0] - logits[1]).abs().max())
    if difference == 0:
        return Result("leak", "PASS", f"another answer does not change the prompt's logits ({mask} mask).")
    return Result(
        "leak",
        "FAIL",
        f"another answer changes the prompt's logits by {difference:.3g}, so it leaks into its own prediction. "
        f"--mask {mask} is for reproducing published checkpoints; train with --mask prefix.",
    )


def _check_cache(
    bundle: ModelBundle, dataset: Dataset, frames: Sequence[FrameQuestions], config: CheckConfig
) -> Result:
    """Reads the cached features of a sample of frames, which verifies their checksums."""
    assert config.cache is not None
    if not config.cache.is_dir():
        return Result("cache", "PASS", f"{config.cache} does not exist yet; the run creates it.")
    video = build_video_token_source(bundle, _shown_frames(bundle, dataset, config), config.cache, config.cache_dtype)
    readers: list[FrameReader | TextReader] = [video.reader]
    if config.cache_text:
        text = build_text_state_source(
            bundle, video, bundle.prompt_tokenizer(config.target), config.cache, config.cache_dtype
        )
        readers.append(text.reader)
    step = max(1, len(frames) // config.frames_to_open) if config.frames_to_open else 1
    items, bad, sample = 0, [], frames[::step]
    for frame in sample:
        try:
            items += sum(reader.read_cached(frame) is not None for reader in readers)
        except FrameError as error:
            bad.append(error.sentence)
    message = f"{items} items of {len(sample)} frames read"
    if not bad:
        return Result("cache", "PASS", f"{message}; their checksums are correct.")
    status = "FAIL" if len(bad) * len(frames) / len(sample) > _bad_frame_limit(config, frames) else "WARN"
    return Result("cache", status, f"{message}, {len(bad)} cannot be used: {bad[0]}")


def _shown_frames(bundle: ModelBundle, dataset: Dataset, config: CheckConfig) -> FrameStore:
    """The pictures that the run trains on."""
    assert config.image_root is not None
    store = bundle.frame_store(config.image_root, dataset.picture_files)
    return show_black(store) if config.blank_video else store


def _check_loss(
    bundle: ModelBundle, dataset: Dataset, train: Sequence[FrameQuestions], config: CheckConfig
) -> tuple[Tensor, Result]:
    """Computes the losses of a few training questions.

    Returns:
        The losses ``[Q]`` float with gradients, and the result of the check.

    Raises:
        InputError: no frame of the questions can be used.
    """
    model, frames = bundle.model, train[:4]
    plan = plan_micro_batches([len(f.questions) for f in frames], 8, 8, config.seed, 0)
    source = build_video_token_source(bundle, _shown_frames(bundle, dataset, config))
    tokenizer = bundle.prompt_tokenizer(config.target)
    windows = TrainingWindows(frames, source.reader, tokenizer, bundle.settings.mask, plan)
    for index in range(len(plan)):
        window = windows[index]
        (batch,) = window.batches
        if window.inputs is not None or config.on_bad_frame == "error":
            break
    if window.inputs is None or batch.packed is None:
        raise InputError(batch.bad[0].why)
    set_modes(model)
    losses: Tensor = model(batch.packed, video_tokens=source(window.inputs).index_select(0, batch.frames))
    mean, questions = float(losses.detach().mean()), batch.packed.num_questions
    if not math.isfinite(mean):
        return losses, Result("loss", "FAIL", f"the loss is {mean}.")
    chance = len(batch.packed.target_ids) / questions * math.log(model.config.decoder_config.vocab_size)
    message = f"{mean:.2f} nats per question on {questions} questions ({chance:.2f} if all tokens were equally likely)."
    return losses, Result("loss", "PASS", message)


def _check_gradients(model: SurgViVQAModel, losses: Tensor) -> Result:
    losses.mean().backward()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    frozen = [n for n, p in model.named_parameters() if p.grad is not None and not p.requires_grad]
    model.zero_grad()
    if not missing and not frozen:
        return Result("gradients", "PASS", "every trained tensor has a gradient, and no frozen one has.")
    return Result(
        "gradients",
        "FAIL",
        f"{len(missing)} trained tensors have no gradient, {len(frozen)} frozen ones have one "
        f"(first: {(missing + frozen)[0]}).",
    )
