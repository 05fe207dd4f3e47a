"""Pre-flight: everything that can go wrong in a run, looked at before it starts."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from surgvivqa.config import TrainConfig, check_ranges, clip_length, flag
from surgvivqa.data.bad_frames import BadFrames
from surgvivqa.data.frames import FrameStore, find_missing_frames, find_unreadable_frames
from surgvivqa.data.index import IndexedFrames, open_questions
from surgvivqa.data.labels import LABELS, parse_label
from surgvivqa.data.packing import pack_training
from surgvivqa.data.splits import SPLIT_NAMES, Splits, load_splits
from surgvivqa.data.ssgqa import FORMAT_FAULTS, FrameQuestions
from surgvivqa.features.batches import TrainingBatches, micro_batches
from surgvivqa.features.frame_reader import FrameReader
from surgvivqa.features.text_reader import TextReader
from surgvivqa.features.text_states import build_text_state_source
from surgvivqa.features.video_tokens import build_video_token_source
from surgvivqa.model.bundle import ModelBundle, build_frame_store
from surgvivqa.model.freezing import format_trainable_table, set_modes, trainable_fraction
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import FrameError, InputError, SurgViVQAError, one_line


@dataclass(frozen=True)
class Result:
    """One check: its name, PASS, WARN or FAIL, and a sentence."""

    name: str
    status: str
    message: str


@dataclass(kw_only=True)
class CheckConfig(TrainConfig):
    """Checks everything that can go wrong before a run. Takes train's flags."""

    json: bool = flag("Print the results as JSON.", False)
    frames_to_open: int = flag("How many frames to decode, spread over the videos; 0 for all.", 200, least=0)


def check(config: CheckConfig) -> int:
    """Runs all checks and prints a line for each.

    Returns:
        0 if none failed, else 1.
    """
    results: list[Result] = []
    for result in run_checks(config):
        results.append(result)
        if not config.json:
            told = "\n".join(map(one_line, result.message.split("\n")))  # question files are shown as they are
            print(f"{result.status:<5} {result.name:<12} {told}", flush=True)
    failed = sum(r.status == "FAIL" for r in results)
    if config.json:
        print(json.dumps([vars(r) for r in results], indent=2))
    else:
        print(f"{len(results)} checks, {failed} failed.")
    return 1 if failed else 0


def run_checks(config: CheckConfig) -> Iterator[Result]:
    """The checks in order. One that needs what an earlier one could not get says so and fails."""
    yield _labels()
    try:
        check_ranges(config)
    except InputError as error:
        yield Result("flags", "FAIL", str(error))
        return
    yield Result("flags", "PASS", "every number is within its range.")
    try:
        splits = load_splits(config.splits_dir)
    except SurgViVQAError as error:
        yield Result("splits", "FAIL", str(error))
        return
    sizes = ", ".join(f"{name} {len(splits.videos(name))}" for name in SPLIT_NAMES)
    yield Result("splits", "PASS", f"{sizes} videos; no overlap, no test video in train or val.")
    if config.ssgvqa_root is None or config.image_root is None:
        yield Result("data", "FAIL", "--ssgvqa-root and --image-root are needed (or SSGVQA_ROOT and IMAGE_ROOT).")
        return
    found: dict[str, IndexedFrames] = {}
    for result, asked in _questions(config, splits):
        yield result
        found[result.name] = asked
    frames = IndexedFrames.concatenate(found.values())
    if not frames:
        return
    groups = [
        IndexedFrames.concatenate(found[n] for n in names if n in found) for names in (("train", "val"), ("test",))
    ]
    try:
        store = build_frame_store(config, config.image_root, clip_length(config))
        yield from _frames(store, [group for group in groups if group], config)
    except InputError as error:
        yield Result("frames", "FAIL", str(error))
    train = found["train"]
    if not train:
        yield Result("model", "FAIL", "without training questions the model, prompt, leak and loss checks cannot run.")
        return
    try:
        bundle = build_for_training(config)
    except SurgViVQAError as error:
        yield Result("model", "FAIL", f"{error} (prompt, leak, loss and gradient checks were not run)")
        return
    yield Result(
        "model",
        "PASS",
        f"built; {100 * trainable_fraction(bundle.model):.4f}% trainable:\n{format_trainable_table(bundle.model)}",
    )
    for name, part in (
        ("tokens", lambda: _tokens(bundle)),
        ("prompts", lambda: _prompts(bundle, frames)),
        ("leak", lambda: _leak(bundle, train, config)),
        ("cache", lambda: _cache(bundle, frames, config)),
    ):
        if name != "cache" or config.cache is not None:
            yield _guarded(name, part)
    yield from _loss_and_gradients(bundle, train, config)


def _guarded(name: str, part: Callable[[], Result]) -> Result:
    try:
        return part()
    except SurgViVQAError as error:
        return Result(name, "FAIL", str(error))


def _labels() -> Result:
    good = len(LABELS) == len(set(LABELS)) == 51 and all(parse_label(x) == i for i, x in enumerate(LABELS))
    return Result("labels", "PASS" if good else "FAIL", f"{len(LABELS)} labels, each found again at its own index.")


def _questions(config: CheckConfig, splits: Splits) -> Iterator[tuple[Result, IndexedFrames]]:
    assert config.ssgvqa_root is not None
    for name in SPLIT_NAMES:
        if not splits.videos(name):
            yield Result(name, "WARN", "no video in this split."), IndexedFrames()
            continue
        try:
            frames, report = open_questions(config.ssgvqa_root, splits.videos(name), strict=config.strict)
        except SurgViVQAError as error:
            yield Result(name, "FAIL", str(error)), IndexedFrames()
            continue
        left_out = ", ".join(f"{k} {v}" for k, v in sorted(report.skipped.items())) or "nothing"
        message = f"{report.questions} questions on {len(frames)} frames; left out: {left_out}."
        odd = [reason for reason in FORMAT_FAULTS if report.skipped[reason]]
        if odd:
            message += f" First: {'; '.join(f'{reason} {report.examples[reason][0]}' for reason in odd)}"
        status = "FAIL" if not frames else "WARN" if odd else "PASS"
        yield Result(name, status, message), frames


def _frames(store: FrameStore, groups: Sequence[IndexedFrames], config: CheckConfig) -> Iterator[Result]:
    """``groups`` are the frames of train, and those of eval: each command has a bound of its own."""
    limits = [_allowed(config, group) for group in groups]
    absent = [find_missing_frames(store, group) for group in groups]
    missing, total = [path for paths in absent for path in paths], sum(map(len, groups))
    if missing:
        first = ", ".join(str(p) for p in missing[:3])
        fails = any(len(paths) > limit for paths, limit in zip(absent, limits, strict=True))
        status, may = ("FAIL", "") if fails else ("WARN", f"; up to {' and '.join(map(str, limits))} are skipped")
        yield Result("frames", status, f"{len(missing)} of {total} frames are missing (first: {first}){may}.")
    else:
        yield Result("frames", "PASS", f"all {total} frames are there.")
    gone, opened, there, bad, fails = set(missing), 0, 0, list[str](), False
    for group, limit, paths in zip(groups, limits, absent, strict=True):
        left = [f for f in group if store.path(f.video, f.frame) not in gone]
        wanted = math.ceil(config.frames_to_open * len(group) / total)
        some = left[:: max(1, len(left) // wanted) if wanted else 1]
        found = [why for _, why in find_unreadable_frames(store, some)]
        # Of those that were not opened as large a part may be bad.
        fails |= bool(found) and len(paths) + len(found) * len(left) / len(some) > limit
        opened, there, bad = opened + len(some), there + len(left), bad + found
    message = f"{opened} of {there} frames opened"
    if not bad:
        yield Result("images", "PASS", f"{message}.")
        return
    status = "FAIL" if fails else "WARN"
    yield Result("images", status, f"{message}, {len(bad)} cannot be used: {' '.join(bad[:3])}")


def _allowed(config: CheckConfig, frames: Sequence[FrameQuestions]) -> int:
    return BadFrames(config.on_bad_frame, config.max_bad_frames, len(frames)).limit


def _tokens(bundle: ModelBundle) -> Result:
    prompts = bundle.prompt_tokenizer()
    trie = LabelTrie(prompts.label_ids)
    ended = (
        f"{len(prompts.terminated)} that would begin another are ended" if prompts.terminated else "none begins another"
    )
    longest = int(trie.lengths.max())
    return Result("tokens", "PASS", f"labels are 1 to {longest} tokens, {ended}; {len(trie.tokens)} inner nodes.")


def _prompts(bundle: ModelBundle, frames: Sequence[FrameQuestions]) -> Result:
    prompts = bundle.prompt_tokenizer()
    prompts.check_fits(frames)
    return Result(
        "prompts",
        "PASS",
        f"longest prompt with answer: {prompts.longest_prompt(frames)[0]} of {prompts.max_length} tokens.",
    )


def _leak(bundle: ModelBundle, train: Sequence[FrameQuestions], config: CheckConfig) -> Result:
    """Two answers of equal length after one prompt: the prompt's logits must be the same, bit for bit."""
    question, prompts = train[0].questions[0], bundle.prompt_tokenizer()
    ids, model = prompts.prompt_ids(question.question), bundle.model.eval()
    video = model.config.video_config
    clip = torch.zeros(1, video.num_frames, 3, video.image_size, video.image_size)
    # Three tokens each, so that also a mode that feeds all but the last has something to leak.
    answers = [(prompts.label_ids[i] * 3)[:3] for i in (0, 11)]
    with torch.inference_mode():
        tokens = model.encode_video(clip)
        logits = [
            model.stream_logits(pack_training([[ids]], [[a]], bundle.settings.mask), tokens)[: len(ids)]
            for a in answers
        ]
    moved = float((logits[0] - logits[1]).abs().max())
    if moved == 0:
        return Result("leak", "PASS", f"changing the answer moves no prompt logit ({bundle.settings.mask} mask).")
    return Result(
        "leak",
        "FAIL",
        f"changing the answer moves the prompt's logits by {moved:.3g}: it leaks into its own prediction. "
        f"--mask {bundle.settings.mask} is for reproducing published checkpoints; train with --mask prefix.",
    )


def _cache(bundle: ModelBundle, frames: Sequence[FrameQuestions], config: CheckConfig) -> Result:
    """What the cache holds of some frames, read back: checksums, and no NaN."""
    assert config.cache is not None and config.image_root is not None
    if not config.cache.is_dir():
        return Result("cache", "PASS", f"{config.cache} is not there yet; the run makes and fills it.")
    video = build_video_token_source(bundle, bundle.frame_store(config.image_root), config.cache, config.cache_dtype)
    readers: list[FrameReader | TextReader] = [video.reader]
    if config.cache_text:
        text = build_text_state_source(bundle, video, bundle.prompt_tokenizer(), config.cache, config.cache_dtype)
        readers.append(text.reader)
    step = max(1, len(frames) // config.frames_to_open) if config.frames_to_open else 1
    found, bad, some = 0, [], frames[::step]
    for frame in some:
        try:
            found += sum(reader.cached(frame) is not None for reader in readers)
        except FrameError as error:
            bad.append(error.sentence)
    message = f"{found} items of {len(some)} frames read back"
    if not bad:
        return Result("cache", "PASS", f"{message}, checksums right.")
    status = "FAIL" if len(bad) * len(frames) / len(some) > _allowed(config, frames) else "WARN"
    return Result("cache", status, f"{message}, {len(bad)} cannot be used: {bad[0]}")


def _loss_and_gradients(bundle: ModelBundle, train: Sequence[FrameQuestions], config: CheckConfig) -> Iterator[Result]:
    try:
        assert config.image_root is not None
        store, prompts, model = bundle.frame_store(config.image_root), bundle.prompt_tokenizer(), bundle.model
        few = train[:4]
        plan = micro_batches([len(f.questions) for f in few], 8, 8, config.seed, 0)
        source = build_video_token_source(bundle, store)
        rows = TrainingBatches(few, source.reader, prompts, bundle.settings.mask, plan)
        skip = config.on_bad_frame == "skip"
        batch = next((b for i in range(len(plan)) if (b := rows[i]).inputs is not None or not skip), rows[0])
        if batch.inputs is None:
            raise InputError(batch.bad[0].why)
        packed = batch.packed
        set_modes(model)
        losses = model(packed, **source.model_inputs(batch.inputs))
    except InputError as error:
        yield Result("loss", "FAIL", str(error))
        return
    loss, tokens = float(losses.detach().mean()), len(packed.target_ids) / packed.num_questions
    level = tokens * math.log(model.config.decoder_config.vocab_size)
    message = f"{loss:.2f} nats a label on {packed.num_questions} questions (all of the vocabulary alike: {level:.2f})."
    if not math.isfinite(loss):
        yield Result("loss", "FAIL", f"the loss is {loss}.")
        return
    yield Result("loss", "PASS", message)
    losses.mean().backward()
    wrong = [n for n, p in model.named_parameters() if (p.grad is not None) and not p.requires_grad]
    # Where nothing reads a tensor it has no gradient: GPT-2's output of the last prompt tokens always reads LoRA.
    silent = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    model.zero_grad()
    if wrong or silent:
        yield Result(
            "gradients",
            "FAIL",
            f"{len(silent)} trained tensors without a gradient, {len(wrong)} frozen ones "
            f"with one (first: {(silent + wrong)[0]}).",
        )
    else:
        yield Result("gradients", "PASS", "every trained tensor has a gradient, no frozen one has.")
