"""``surgvivqa check``: tests data, flags and model before a run, so that a run does not fail hours later."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from surgvivqa.config import TrainConfig, check_ranges, clip_length, data_roots, flag
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frame_checks import Inspection, find_wrong_rates, inspect_frames
from surgvivqa.data.frames import FrameStore, find_missing_frames, suggest_missing_frames
from surgvivqa.data.index import IndexedFrames, open_questions
from surgvivqa.data.labels import LABELS, parse_label
from surgvivqa.data.overlaps import find_copies, find_links
from surgvivqa.data.packing import pack_training
from surgvivqa.data.splits import SPLIT_NAMES, Splits, load_splits
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.features.batches import TrainingBatches, micro_batches
from surgvivqa.features.frame_reader import FrameReader
from surgvivqa.features.text_reader import TextReader
from surgvivqa.features.text_states import build_text_state_source
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.bundle import ModelBundle, build_frame_store
from surgvivqa.model.freezing import format_trainable_table, set_modes, trainable_fraction
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import FrameError, InputError, SurgViVQAError, one_line


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Attributes:
        name: the check.
        status: PASS, WARN or FAIL.
        message: what was found, in a sentence.
    """

    name: str
    status: str
    message: str


@dataclass(kw_only=True)
class CheckConfig(TrainConfig):
    """Checks data, flags and model before a run. Takes train's flags."""

    json: bool = flag("Print the results as JSON.", False)
    frames_to_open: int = flag("How many frames to decode, spread over the videos; 0 for all.", 200, least=0)


class _CheckFailedError(Exception):
    """A check that all later ones depend on has failed."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.message)
        self.result = result


def check(config: CheckConfig) -> int:
    """Runs all checks and prints a line for each.

    Returns:
        0 if none failed, else 1.
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
    """Yields the results of the checks in order; ends early if one fails that all later ones depend on."""
    try:
        yield from _run_checks(config)
    except _CheckFailedError as error:
        yield error.result


def _run_checks(config: CheckConfig) -> Iterator[Result]:
    yield _check_labels()
    with _stop_if_failed("flags"):
        check_ranges(config)
    yield Result("flags", "PASS", "every number is within its range.")
    with _stop_if_failed("splits"):
        splits = load_splits(config.splits_dir)
    sizes = ", ".join(f"{name} {len(splits.videos(name))}" for name in SPLIT_NAMES)
    yield Result("splits", "PASS", f"{sizes} videos; no overlap, no test video in train or val.")

    with _stop_if_failed("data"):
        data_roots(config)
    frames: dict[str, IndexedFrames] = {}
    for name in SPLIT_NAMES:
        result, frames[name] = _check_questions(config, splits, name)
        yield result
    all_frames = IndexedFrames.concatenate(frames.values())
    if not all_frames:
        return
    yield _fail_on_error("overlap", lambda: _check_overlaps(config, splits))
    yield from _check_frames(config, frames)

    train = frames["train"]
    if not train:
        yield Result("model", "FAIL", "there are no training questions, so the model was not checked.")
        return
    with _stop_if_failed("model", advice=" (prompts, leak, loss and gradients were not checked)"):
        bundle = build_for_training(config)
    share = 100 * trainable_fraction(bundle.model)
    yield Result("model", "PASS", f"built; {share:.4f}% trainable:\n{format_trainable_table(bundle.model)}")
    yield _fail_on_error("tokens", lambda: _check_label_tokens(bundle))
    yield _fail_on_error("prompts", lambda: _check_prompts(bundle, all_frames))
    yield _check_leak(bundle, train)
    if config.cache is not None:
        yield _fail_on_error("cache", lambda: _check_cache(bundle, all_frames, config))
    with _stop_if_failed("loss"):
        losses, result = _check_loss(bundle, train, config)
    yield result
    if result.status == "PASS":
        yield _check_gradients(bundle.model, losses)


@contextlib.contextmanager
def _stop_if_failed(name: str, advice: str = "") -> Iterator[None]:
    try:
        yield
    except SurgViVQAError as error:
        raise _CheckFailedError(Result(name, "FAIL", f"{error}{advice}")) from error


def _fail_on_error(name: str, run: Callable[[], Result]) -> Result:
    try:
        return run()
    except SurgViVQAError as error:
        return Result(name, "FAIL", str(error))


def _check_labels() -> Result:
    are_valid = len(LABELS) == len(set(LABELS)) == 51 and all(parse_label(x) == i for i, x in enumerate(LABELS))
    return Result("labels", "PASS" if are_valid else "FAIL", f"{len(LABELS)} labels; each parses to its own index.")


def _check_questions(config: CheckConfig, splits: Splits, split: str) -> tuple[Result, IndexedFrames]:
    assert config.ssgvqa_root is not None
    if not splits.videos(split):
        return Result(split, "WARN", "no video in this split."), IndexedFrames()
    try:
        frames, report = open_questions(config.ssgvqa_root, splits.videos(split), strict=config.strict)
    except SurgViVQAError as error:
        return Result(split, "FAIL", str(error)), IndexedFrames()
    left_out = ", ".join(f"{k} {v}" for k, v in sorted(report.skipped.items())) or "nothing"
    message = f"{report.questions} questions on {len(frames)} frames; left out: {left_out}."
    faults = report.describe_faults()
    if faults:
        message += f" Check {'; '.join(faults)}."
    return Result(split, "FAIL" if not frames else "WARN" if faults else "PASS", message), frames


def _check_frames(config: CheckConfig, frames: dict[str, IndexedFrames]) -> Iterator[Result]:
    """Looks for missing frames, and opens some of the others."""
    try:
        assert config.image_root is not None
        store = build_frame_store(config, config.image_root, clip_length(config))
        # train and eval each have their own limit of bad frames.
        groups = [IndexedFrames.concatenate([frames["train"], frames["val"]]), frames["test"]]
        groups = [group for group in groups if group]
        missing = [find_missing_frames(store, group) for group in groups]
        yield _report_missing(config, store, groups, missing)
        yield _check_rates(store, IndexedFrames.concatenate(groups))
        yield _open_frames(config, store, groups, missing)
    except InputError as error:
        yield Result("frames", "FAIL", str(error))


def _report_missing(
    config: CheckConfig,
    store: FrameStore,
    groups: Sequence[IndexedFrames],
    missing: Sequence[Sequence[tuple[str, int]]],
) -> Result:
    total, names = sum(map(len, groups)), [name for group in missing for name in group]
    if not names:
        return Result("frames", "PASS", f"all {total} frames exist.")
    limits = [_bad_frame_limit(config, group) for group in groups]
    exceeded = any(len(group) > limit for group, limit in zip(missing, limits, strict=True))
    first = ", ".join(str(store.path(*name)) for name in names[:3])
    skipped = "" if exceeded else f"; up to {' and '.join(map(str, limits))} are skipped"
    status = "FAIL" if exceeded else "WARN"
    hint = suggest_missing_frames(store, names, *groups)
    return Result("frames", status, f"{len(names)} of {total} frames are missing (first: {first}){skipped}.{hint}")


def _check_rates(store: FrameStore, frames: IndexedFrames) -> Result:
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


def _open_frames(
    config: CheckConfig,
    store: FrameStore,
    groups: Sequence[IndexedFrames],
    missing: Sequence[Sequence[tuple[str, int]]],
) -> Result:
    whole, existing, exceeded = Inspection(), 0, False
    total = sum(map(len, groups))
    for group, missing_names in zip(groups, missing, strict=True):
        absent = set(missing_names)
        present = [f for f in group if (f.video, f.frame) not in absent]
        wanted = math.ceil(config.frames_to_open * len(group) / total)
        sample = present[:: max(1, len(present) // wanted) if wanted else 1]
        inspection = inspect_frames(store, sample)
        if inspection.unreadable:  # the same share of the frames that were not opened may be bad
            expected = len(absent) + len(inspection.unreadable) * len(present) / len(sample)
            exceeded |= expected > _bad_frame_limit(config, group)
        existing += len(present)
        whole.add(inspection)
    message = f"{whole.opened} of {existing} frames opened"
    if not whole.opened:
        return Result("images", "FAIL", f"{message}; there is none to look at.")
    problems = whole.describe()
    if whole.unreadable:
        problems.insert(0, f"{len(whole.unreadable)} cannot be used: {' '.join(whole.unreadable[:3])}")
    if not problems:
        return Result("images", "PASS", f"{message}.")
    return Result("images", "FAIL" if exceeded else "WARN", f"{message}, {' '.join(problems)}")


def _check_overlaps(config: CheckConfig, splits: Splits) -> Result:
    """Looks for one video under several names, by links and by equal files."""
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
    where = f"{worst.first} ({split_of[worst.first]}) and {worst.second} ({split_of[worst.second]}) {worst.how}"
    if across:
        return Result("overlap", "FAIL", f"{where}, so splits share a video; take it out of one of them.")
    return Result("overlap", "WARN", f"{where}; the video counts twice.")


def _bad_frame_limit(config: CheckConfig, frames: Sequence[FrameQuestions]) -> int:
    return BadFrames(config.on_bad_frame, config.max_bad_frames, len(frames)).limit


def _check_label_tokens(bundle: ModelBundle) -> Result:
    tokenizer = bundle.prompt_tokenizer()
    trie = LabelTrie(tokenizer.label_ids)
    prefixes = len(tokenizer.terminated)
    ending = (
        f"{prefixes} are prefixes of others and end with end-of-text" if prefixes else "none is a prefix of another"
    )
    longest = int(trie.lengths.max())
    return Result("tokens", "PASS", f"labels have 1 to {longest} tokens, {ending}; {len(trie.tokens)} inner nodes.")


def _check_prompts(bundle: ModelBundle, frames: Sequence[FrameQuestions]) -> Result:
    tokenizer = bundle.prompt_tokenizer()
    tokenizer.check_fits(frames)
    longest = tokenizer.longest_prompt(frames)[0]
    return Result("prompts", "PASS", f"longest prompt with answer: {longest} of {tokenizer.max_length} tokens.")


def _check_leak(bundle: ModelBundle, train: Sequence[FrameQuestions]) -> Result:
    """Gives one prompt two answers of equal length; the prompt's logits must be bit-identical."""
    tokenizer, model, mask = bundle.prompt_tokenizer(), bundle.model.eval(), bundle.settings.mask
    ids, video = tokenizer.prompt_ids(train[0].questions[0].question), model.config.video_config
    clip = torch.zeros(1, video.num_frames, 3, video.image_size, video.image_size)
    # Three tokens each, so that a model that is fed all but the last token has something to leak.
    answers = [(tokenizer.label_ids[i] * 3)[:3] for i in (0, 11)]
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


def _check_cache(bundle: ModelBundle, frames: Sequence[FrameQuestions], config: CheckConfig) -> Result:
    """Reads cached features of some frames, which verifies their checksums."""
    assert config.cache is not None and config.image_root is not None
    if not config.cache.is_dir():
        return Result("cache", "PASS", f"{config.cache} does not exist yet; the run creates it.")
    video = build_video_token_source(bundle, bundle.frame_store(config.image_root), config.cache, config.cache_dtype)
    readers: list[FrameReader | TextReader] = [video.reader]
    if config.cache_text:
        text = build_text_state_source(bundle, video, bundle.prompt_tokenizer(), config.cache, config.cache_dtype)
        readers.append(text.reader)
    step = max(1, len(frames) // config.frames_to_open) if config.frames_to_open else 1
    items, bad, sample = 0, [], frames[::step]
    for frame in sample:
        try:
            items += sum(reader.cached(frame) is not None for reader in readers)
        except FrameError as error:
            bad.append(error.sentence)
    message = f"{items} items of {len(sample)} frames read"
    if not bad:
        return Result("cache", "PASS", f"{message}; their checksums are correct.")
    status = "FAIL" if len(bad) * len(frames) / len(sample) > _bad_frame_limit(config, frames) else "WARN"
    return Result("cache", status, f"{message}, {len(bad)} cannot be used: {bad[0]}")


def _check_loss(bundle: ModelBundle, train: Sequence[FrameQuestions], config: CheckConfig) -> tuple[Tensor, Result]:
    """The losses of a few training questions, ``[Q]`` float with gradients.

    Raises:
        InputError: no frame of the questions can be used.
    """
    assert config.image_root is not None
    model, frames = bundle.model, train[:4]
    plan = micro_batches([len(f.questions) for f in frames], 8, 8, config.seed, 0)
    source = build_video_token_source(bundle, bundle.frame_store(config.image_root))
    batches = TrainingBatches(frames, source.reader, bundle.prompt_tokenizer(), bundle.settings.mask, plan)
    may_skip = config.on_bad_frame == "skip"
    batch = next((b for i in range(len(plan)) if (b := batches[i]).inputs is not None or not may_skip), batches[0])
    if batch.inputs is None:
        raise InputError(batch.bad[0].why)
    set_modes(model)
    losses: Tensor = model(batch.packed, **source.model_inputs(batch.inputs))
    mean, questions = float(losses.detach().mean()), batch.packed.num_questions
    if not math.isfinite(mean):
        return losses, Result("loss", "FAIL", f"the loss is {mean}.")
    guessing = len(batch.packed.target_ids) / questions * math.log(model.config.decoder_config.vocab_size)
    message = f"{mean:.2f} nats per label on {questions} questions ({guessing:.2f} if all tokens were equally likely)."
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
