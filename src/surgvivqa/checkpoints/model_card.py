"""A checkpoint's model card: what it is, how it was trained, what it can do, and what it must not be used for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from surgvivqa.checkpoints.card_figures import cell, figures_section
from surgvivqa.checkpoints.hub_names import without_revision
from surgvivqa.checkpoints.public_settings import hub_name, part_name, public_run
from surgvivqa.config import MODEL_FLAGS, ModelConfig, TrainConfig, clip_length, flag_names
from surgvivqa.data.labels import SSG_QA, LabelSet
from surgvivqa.data.splits import TEST_VIDEOS, load_splits, shared_videos
from surgvivqa.data.ssgqa import is_synthetic
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.model.bundle import ModelBundle, RunRecord
from surgvivqa.model.freezing import frozen_as, trainable_table
from surgvivqa.utils.atomic_files import atomic_path
from surgvivqa.utils.errors import InputError

Row = tuple[str, int, int]

DATA_LICENCE = "cc-by-nc-sa-4.0"  # SSG-QA's, CholecT45's and CholecT50's

LOAD_SNIPPET = """\
from surgvivqa.auto import SurgViVQAModel, SurgViVQAProcessor  # AutoModel and AutoProcessor know them from here on

model = SurgViVQAModel.from_pretrained("{repo}")
processor = SurgViVQAProcessor.from_pretrained("{repo}")
scores = model.score(**processor("frame.png", ["What is the grasper doing?", "How many tools are there?"]))
print(processor.answers(scores, top=3))
"""
LOAD_COMMANDS = """\
surgvivqa predict --checkpoint {repo} --image frame.png --question "What is the grasper doing?"
surgvivqa eval --checkpoint {repo} --ssgvqa-root SSG-QA --image-root FRAMES
"""

METRIC_NAMES = {
    "acc": ("accuracy", "Accuracy"),
    "mAP": ("precision", "Mean precision over the classes present (mAP)"),
    "mAR": ("recall", "Mean recall over the classes present (mAR)"),
    "mAF1": ("f1", "Mean F1 over the classes present (mAF1)"),
    "wF1": ("f1", "F1 weighted by support (wF1)"),
}
_PART_NAMES = {
    "visual_encoder": "VideoMAE, the video encoder",
    "text_encoder": "BLIP's text encoder",
    "llm base": "the decoder",
    "llm LoRA": "LoRA adapters on the decoder",
}
_CARD_FLAGS = flag_names(TrainConfig, lambda flag: flag.in_card)
_SETTINGS = tuple(name for name in _CARD_FLAGS if name in MODEL_FLAGS)
_RUN_FLAGS = tuple(name for name in _CARD_FLAGS if name not in MODEL_FLAGS)


@dataclass(frozen=True, slots=True)
class Card:
    """The content of a card.

    Attributes:
        settings: the model's settings.
        run: the record of the training run.
        report: the evaluation, or None.
        trained: rows (part, trained parameters, all parameters); empty if not known.
        repo: the model's name on the hub.
        licence: the hub's identifier of the licence.
        synthetic: whether the model was trained on the synthetic set; None if not known.
        label_set: the labels that the model chooses from.
    """

    settings: ModelConfig
    run: RunRecord
    report: EvaluationReport | None
    trained: Sequence[Row]
    repo: str
    licence: str
    synthetic: bool | None
    label_set: LabelSet = SSG_QA


def write_model_card(
    folder: Path,
    settings: ModelConfig,
    run: RunRecord,
    report: EvaluationReport | None,
    trained: Sequence[Row] | None,
    *,
    repo: str = "USER/MODEL",
    licence: str | None = None,
    label_set: LabelSet = SSG_QA,
) -> Path:
    """Writes ``README.md``, a model card with the hub's YAML front matter, into a checkpoint folder.

    Nothing private goes into it: no folder, no user name, no video's name.

    Args:
        folder: the checkpoint folder.
        settings: what the model is made of (``ModelBundle.settings``).
        run: the record of the training run (``ModelBundle.run``).
        report: the evaluation, or None: the card then says "not evaluated".
        trained: rows (part, trained parameters, all parameters) as ``trained_parts`` gives them, or None.
        repo: the name on the hub that the snippet loads.
        licence: of the weights, by the hub's identifier; ``other`` where it has none. Default: the training data's,
            CC BY-NC-SA 4.0, or Apache-2.0 for a model that learned from the synthetic set alone; ``other`` for another
            data set than SSG-QA.
        label_set: the labels that the model chooses from (``ModelBundle.label_set``).

    Returns:
        The card's path.

    Raises:
        InputError: ``folder`` is not a folder or cannot be written, or ``licence`` is not an identifier.
    """
    synthetic = _learned_from_synthetic(run)
    of_data = DATA_LICENCE if label_set.is_ssg_qa else "other"
    licence = licence or ("apache-2.0" if synthetic and not run.flags.get("pretrained_ckpt") else of_data)
    if not is_licence(licence):
        raise InputError(
            f"Licence {licence!r} is not a licence identifier of the hub; give one such as {DATA_LICENCE}, or other."
        )
    card = Card(settings, run, report, trained or (), repo, licence, synthetic, label_set)
    path = folder / "README.md"
    try:
        with atomic_path(path, durable=False) as temporary:
            temporary.write_text(model_card(card), encoding="utf-8")
    except OSError as error:
        raise InputError(f"The model card {path} cannot be written ({error.strerror}).") from None
    return path


def is_licence(value: str) -> bool:
    """Whether a value has the form of the hub's identifiers of licences."""
    return bool(re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", value))


def trained_parts(bundle: ModelBundle) -> list[Row]:
    """Rows (part, trained parameters, all parameters) of the run that wrote a checkpoint; empty if it is not recorded.

    They follow from the run's flags, since no tensor of a loaded model requires gradients. The model is not changed.
    """
    if not bundle.run.flags:
        return []
    try:
        with frozen_as(bundle.model, bundle.run.config):
            return trainable_table(bundle.model)
    except InputError:  # merged adapters no longer show what was trained
        return []


def model_card(card: Card) -> str:
    """The whole card: front matter, then its sections."""
    sections = (_what, _loading, _data, _training, _figures, _mask, _limits, _licence)
    return f"---\n{front_matter(card).to_yaml()}\n---\n\n" + "\n\n".join(write(card) for write in sections) + "\n"


def front_matter(card: Card) -> ModelCardData:
    """The hub's metadata. Base models that were local folders are left out, since the hub could not link them."""
    parts = [] if card.settings.preset == "tiny" else [_base_model(value) for value in _parts(card.settings)]
    name = card.repo.split("/")[-1]
    other = card.licence == "other"  # the hub then wants a name and a place
    data_set = _hub_tag(card.label_set)
    kind = {True: ["synthetic"], False: ["medical", data_set], None: []}[card.synthetic]
    tags = ["surgical", "video", *kind]
    return ModelCardData(
        language="en",
        license=card.licence,
        license_name="see-model-card" if other else None,
        license_link="README.md" if other else None,
        library_name="surgvivqa",
        pipeline_tag="visual-question-answering",
        base_model=[part for part in parts if part] or None,
        datasets=[data_set] if card.synthetic is False else None,
        tags=[*tags, "lora"] if card.settings.lora_r and not card.run.flags.get("full_finetune") else tags,
        model_name=name,
        eval_results=_eval_results(card) or None,
    )


def _eval_results(card: Card) -> list[EvalResult]:
    """The metrics in the hub's form, as fractions; none on training videos or on questions of unknown origin."""
    report = card.report
    split = {"test": "test", "val": "validation"}.get(report.split) if report else None
    if report is None or split is None or report.synthetic is None:
        return []
    drawn = report.synthetic
    return [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type="surgvivqa-synthetic" if drawn else _hub_tag(report.label_set),
            dataset_name="surgvivqa's synthetic set" if drawn else _data_set(report.label_set),
            dataset_split=split,
            metric_type=METRIC_NAMES[key][0],
            metric_name=METRIC_NAMES[key][1],
            metric_value=round(getattr(report.metrics.overall, key), 4),
        )
        for key in METRICS
    ]


def _what(card: Card) -> str:
    if card.settings.preset == "tiny":
        parts = "small versions of a VideoMAE, a BLIP text encoder and a GPT-2, from surgvivqa's packaged base"
    else:
        shown = (f"`{cell(part_name(v))}`" + ("" if hub_name(v) else " (a local copy)") for v in _parts(card.settings))
        parts = "the video encoder {}, the text encoder {} and the decoder {}".format(*shown)
    data_set = _data_set(card.label_set)
    learned = {True: f"drawn scenes in {data_set}'s format", False: data_set, None: f"questions in {data_set}'s format"}
    frame = "a frame of laparoscopic cholecystectomy" if card.label_set.is_ssg_qa else "a frame of surgery"
    long = card.run.flags.get("target") == "long"
    wrote = " It was trained to write its answers as sentences (`surgvivqa eval --generate`)." if long else ""
    return f"""# {card.repo.split("/")[-1]}

SurgViVQA ([arXiv 2511.03325](https://arxiv.org/abs/2511.03325)), fine-tuned by surgvivqa on
{learned[card.synthetic]}. It answers a question about {frame} with one of {len(card.label_set)} labels,
and is made of {parts}.{wrote}"""


def _loading(card: Card) -> str:
    snippet, commands = LOAD_SNIPPET.format(repo=card.repo), LOAD_COMMANDS.format(repo=card.repo)
    return f"""## How to load it

It needs the Python package `surgvivqa`.

```python
{snippet}```

```bash
{commands}```"""


def _data(card: Card) -> str:
    if not card.run.train_videos:
        videos = "The training videos are not recorded, so it is not known whether a test video was among them."
    else:
        videos = (
            _split_sentence(card.run)
            if card.label_set.is_ssg_qa
            else f"Trained on {len(card.run.train_videos)} videos."
        )
    if card.run.flags.get("pretrained_ckpt"):
        videos += " The run started from an earlier checkpoint, whose videos count here as far as it records them."
    if not card.label_set.is_ssg_qa:
        drawn = "Drawn scenes and questions" if card.synthetic else "Frames and questions"
        source = f"{drawn} with the labels of {_data_set(card.label_set)}."
    elif card.synthetic:
        source = (
            "Drawn scenes and questions in SSG-QA's format, made by `surgvivqa synth`; no real frame and no patient."
        )
    elif card.synthetic is None:
        source = "Questions in SSG-QA's format; whether they were SSG-QA's own is not recorded."
    else:
        source = (
            "SSG-QA's questions on frames of CholecT45, one frame a second. The first two lines of a question file, "
            f"answers with a comma and answers outside the {len(card.label_set)} labels are left out."
        )
    return f"## Data and split\n\n{source} {videos}"


def _split_sentence(run: RunRecord) -> str:
    train = run.train_videos
    seen = shared_videos(train, TEST_VIDEOS)
    if seen:
        return f"Trained on {len(train)} videos, **{len(seen)} of them test videos of the standard split**."
    counts = [f"Trained on {len(train)} videos"]
    splits = None
    try:
        splits = load_splits(run.config.splits_dir)
    except InputError:
        counts.append("how many the validation and test splits had is not recorded")
    if splits is not None and set(splits.train) == set(train):
        counts.append(f"validated on {len(splits.val)}, with {len(splits.test)} kept for the test")
    standard = set(train) == set(load_splits().train)
    kind = "the standard split of SSG-VQA-Net" if standard else "a split of its own"
    return f"{'; '.join(counts)}: {kind}. None of the standard split's five test videos was trained on."


def _training(card: Card) -> str:
    lines = ["## How it was trained", ""]
    run = card.run.flags
    if run:
        flags = public_run({k: run[k] for k in _RUN_FLAGS if run.get(k) is not None and run[k] is not False})
        if "max_steps" in flags:
            flags.pop("epochs", None)
        if run.get("cache"):
            flags["cache_dtype"] = run.get("cache_dtype")
    else:
        flags = {}
        lines += ["The flags of the training run are not recorded; these are the model's settings.", ""]
    flags |= {k: getattr(card.settings, k) for k in _SETTINGS} | {"num_frames": clip_length(card.settings)}
    if run.get("full_finetune"):  # then there are no adapters
        flags = {k: v for k, v in flags.items() if not k.startswith("lora_")}
    lines += ["| flag | value |", "| --- | --- |"]
    lines += [f"| `--{name.replace('_', '-')}` | {cell(value)} |" for name, value in flags.items()]
    if not card.trained:
        return "\n".join([*lines, "", "Which parameters were trained is not recorded."])
    total = ("in all", sum(r[1] for r in card.trained), sum(r[2] for r in card.trained))
    lines += ["", "| part | parameters trained | of | share |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {_PART_NAMES.get(part, cell(part))} | {trained:,} | {every:,} | {100 * trained / max(1, every):.4g}% |"
        for part, trained, every in [*card.trained, total]
    ]
    return "\n".join(lines)


def _figures(card: Card) -> str:
    return figures_section(card.settings, card.report)


def _mask(card: Card) -> str:
    if "bidirectional" in (card.settings.mask, card.report.mask if card.report else ""):
        return (
            "## Mask\n\n**Warning:** `bidirectional` is the published behaviour, under which the answer's tokens shape "
            "the states that predict it: the answer leaks in training and in scoring. Use it to reproduce published "
            "runs only, and do not compare its loss."
        )
    return (
        f"## Mask\n\n`{cell(card.settings.mask)}`: no token of a prompt sees its answer, so no answer leaks into its "
        "own prediction."
    )


def _limits(card: Card) -> str:
    origin = (
        "Questions and answers of SSG-QA were generated from annotated scene\ngraphs and carry their errors."
        if card.label_set.is_ssg_qa
        else "Questions and answers carry the\nerrors of their data set."
    )
    n = len(card.label_set)
    return f"""## Intended use and limits

For research on surgical visual question answering. **Never for clinical use**: not for diagnosis, not for guidance in
surgery, not for judging surgeons. It gives one of {n} labels to every question, also to one that it cannot answer, and
its probabilities are not calibrated for any decision. It knows one procedure from one set of videos; other hospitals,
instruments, cameras and wordings were not tested. {origin}"""


def _licence(card: Card) -> str:
    if card.synthetic and not card.run.flags.get("pretrained_ckpt"):
        data = "It learned from drawn scenes alone; nothing of SSG-QA or CholecT45 was used."
    elif not card.label_set.is_ssg_qa:
        data = f"The licence of {_data_set(card.label_set)} applies to what is adapted from it."
    else:
        data = "" if card.synthetic is False else "Whether it learned from SSG-QA is not recorded; if so: "
        data += (
            "SSG-QA, CholecT45 and CholecT50 (University of Strasbourg, CAMMA) are licensed under CC BY-NC-SA 4.0: no "
            "commercial use, attribution, and the same licence for what is adapted from them. None of the data is "
            "part of this repository."
        )
    given = "the terms stated by its publisher" if card.licence == "other" else f"`{card.licence}`"
    return f"""## Licence

These weights: {given}. {data} The base models keep their own licences; the code of `surgvivqa` is Apache-2.0."""


def _data_set(label_set: LabelSet) -> str:
    """The name of a data set in text."""
    return "SSG-QA" if label_set.is_ssg_qa else cell(label_set.name)


def _hub_tag(label_set: LabelSet) -> str:
    """The name of a data set as the hub's metadata has it."""
    return re.sub(r"[^a-z0-9]+", "-", label_set.name.lower()).strip("-") or "custom"


def _base_model(value: str) -> str | None:
    """A part's name on the hub, as the hub's metadata has it: without a revision."""
    name = hub_name(value)
    return None if name is None else without_revision(name)


def _parts(settings: ModelConfig) -> tuple[str, str, str]:
    return settings.video_model, settings.text_model, settings.decoder_model


def _learned_from_synthetic(run: RunRecord) -> bool | None:
    """What the run records; if it records nothing, what its data folder says, if that still exists."""
    root = run.config.ssgvqa_root
    if run.synthetic is not None or root is None or not root.is_dir():
        return run.synthetic
    return is_synthetic(root)
