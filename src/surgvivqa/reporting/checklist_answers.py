"""What a run says about the items of the reporting checklist. None where only the authors can say it."""

from collections.abc import Sequence
from typing import Any

from surgvivqa.checkpoints.public_settings import last_name
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.reporting.results import RunResults
from surgvivqa.reporting.tables import between, percent, points

DETECTOR_LABELS = (
    "SSG-QA has labels made by detectors, not by people: its anatomy and its boxes come from detection models, and its "
    "questions and answers are generated from scene graphs of them."
)
_DRAWN = "The scenes are drawn by this package (surgvivqa synth); no patient is shown."
_TRAINING_FLAGS = (
    *("lr", "weight_decay", "schedule", "warmup_steps", "batch_size", "gradient_accumulation_steps", "max_steps"),
    *("epochs", "max_grad_norm", "lora_r", "lora_alpha", "lora_dropout", "full_finetune", "train_blip"),
    *("train_gpt2_full", "train_video", "fp16", "bf16", "seed"),
)
_SHOWN_GROUPS = ("zero_hop", "one_hop", "single_and", "existence", "counting", "object", "attribute")


def direction(run: RunResults) -> str | None:
    """Whether the data were collected before the study."""
    return None if run.report.synthetic else "Retrospective: recordings and questions of a public data set."


def goal(run: RunResults) -> str | None:
    """The kind of study."""
    if not run.flags:
        return f"Evaluation of a model that answers questions with one of {_num_labels(run)} labels."
    return f"Development and evaluation of a model that answers questions with one of {_num_labels(run)} labels."


def data_sources(run: RunResults) -> str | None:
    """The data set."""
    if run.report.synthetic:
        return f"{_DRAWN} The figures say nothing about real surgery."
    if (name := _other_data_set(run)) is not None:
        return f"Frames, questions and answers of {name}; to be described by the authors."
    source = "frames of CholecT45 (laparoscopic cholecystectomy, one centre, Strasbourg), questions of SSG-QA"
    if run.report.synthetic is None:
        return f"Whether the questions are SSG-QA's own is not recorded. If they are: {source}."
    return f"{source[0].upper()}{source[1:]}; both CC BY-NC-SA 4.0."


def inclusion(run: RunResults) -> str | None:
    """Which questions are in."""
    report = run.report
    videos = len(report.metrics.by_video)
    size = f"{report.metrics.overall.n:,} questions about {videos} videos of the {report.split} split"
    limit = f", at most {report.max_samples:,} spread over the videos" if report.max_samples is not None else ""
    if report.only is not None:
        limit = f", only those that {report.only.file} lists (SHA-256 {report.only.sha256}){limit}"
    left_out = ", ".join(f"{reason} {count:,}" for reason, count in report.skipped.items() if count)
    summaries = "" if _other_data_set(run) else "The two summary lines of each file are no questions. "
    return (
        f"{size}{limit}. {summaries}Lines left out: {left_out or 'none'}; "
        f"frames left out: {len(report.skipped_frames)}."
    )


def preprocessing(run: RunResults) -> str | None:
    """How frames become input."""
    if not run.flags:
        return None
    fit, clip = run.flags.get("frame_fit"), run.flags.get("clip_mode")
    prompt = run.report.prompt_mode
    return (
        f"A frame is made square by --frame-fit {fit}; clips by --clip-mode {clip}; prompts are --prompt-mode {prompt}."
    )


def subsets(run: RunResults) -> str | None:
    """Whether parts of the data were chosen."""
    if run.report.only is not None:
        only = run.report.only
        return f"{only.selected:,} of the {only.of:,} questions of the split, those that {only.file} lists."
    if run.report.max_samples is not None:
        return f"A sample of at most {run.report.max_samples:,} questions, spread over the videos."
    return "All usable questions of the split; whole frames."


def deidentification(run: RunResults) -> str | None:
    """How identity is protected."""
    return _DRAWN if run.report.synthetic else None


def missing_data(run: RunResults) -> str | None:
    """How damaged data were handled."""
    count = len(run.report.skipped_frames)
    if count:
        return f"{count} frames that cannot be used, and their questions, were left out; metrics.json lists them."
    return "No frame was left out. A frame that cannot be used is an error unless --on-bad-frame skip is given."


def acquisition(run: RunResults) -> str | None:
    """How the images were acquired."""
    return _DRAWN if run.report.synthetic else None


def reference_definition(run: RunResults) -> str | None:
    """What the truth is."""
    return f"The answer in the question file, one of {_num_labels(run)} labels, compared exactly."


def label_limits(run: RunResults) -> str | None:
    """The limits of the reference."""
    if run.report.synthetic:
        return "The answers follow from the drawn scenes, so that they are exact."
    if _other_data_set(run) is not None:
        return None
    return f"{_if_ssgqa(run)}{DETECTOR_LABELS} A right answer agrees with a detector."


def label_source(run: RunResults) -> str | None:
    """Who made the labels."""
    if not run.report.synthetic and _other_data_set(run) is not None:
        return None
    return "Made from the drawn scenes." if run.report.synthetic else f"{_if_ssgqa(run)}{DETECTOR_LABELS}"


def variability(run: RunResults) -> str | None:
    """Agreement between annotators."""
    if run.report.synthetic:
        return "Does not apply: the answers follow from the drawn scenes."
    if _other_data_set(run) is not None:
        return None
    return f"{_if_ssgqa(run)}No agreement between people is known: labels made by detectors, not by people."


def predictors(run: RunResults) -> str | None:
    """The model's input."""
    clip = run.flags.get("clip_mode", "repeat")
    seen = "the frame and frames before it" if clip == "past" else "one frame"
    return f"The pixels of {seen} and the text of the question. No boxes, no scene graph, no patient data."


def partitions(run: RunResults) -> str | None:
    """The partitions."""
    if not run.flags:
        return None
    if run.flags.get("splits_dir"):
        return "Splits of the authors' own (--splits-dir); to be described by the authors."
    if _other_data_set(run) is not None:
        return None
    return "SSG-VQA-Net's split: 35 training, 5 validation and 5 test videos."


def disjoint(run: RunResults) -> str | None:
    """The level at which partitions are disjoint."""
    unit = "Videos." if _other_data_set(run) else "Videos, which are patients."
    return (
        f"{unit} An evaluation refuses videos that the checkpoint records as trained on, copies under other names "
        f"included."
    )


def sample_size(run: RunResults) -> str | None:
    """The size of the test set."""
    videos, questions = len(run.report.metrics.by_video), run.report.metrics.overall.n
    return f"Fixed by the data set: {videos} videos, the unit of the intervals; {questions:,} questions."


def imbalance(run: RunResults) -> str | None:
    """How rare answers were handled."""
    return (
        "No reweighting or resampling of answers. Macro averages (mAP, mAR, mAF1) give each label that occurs the same "
        "weight and are reported beside the accuracy."
    )


def model(run: RunResults) -> str | None:
    """The model."""
    mask = f"Attention mask: {run.report.mask}."
    if run.report.mask == "bidirectional":
        mask = "Attention mask: bidirectional, under which the answer leaks into its own prediction."
    if not run.flags:
        return f"SurgViVQA: video encoder, text encoder with cross-attention, decoder. {mask}"
    if run.flags.get("preset") == "tiny":
        parts = "the small base of the package"
    else:
        parts = ", ".join(last_name(str(run.flags.get(f"{part}_model"))) for part in ("video", "text", "decoder"))
    answer = f"The label with the highest score (--score-norm {run.report.score_norm}) is the answer."
    return f"SurgViVQA of {parts}. {mask} {answer}"


def software(run: RunResults) -> str | None:
    """Libraries and hardware."""
    environment = run.report.environment
    if environment is None:
        return None
    versions = ", ".join(f"{name} {version}" for name, version in environment.versions.items())
    processes = f", {environment.processes} processes" if environment.processes > 1 else ""
    return f"{versions}; evaluated on {environment.device}{processes} in {environment.precision}."


def initialisation(run: RunResults) -> str | None:
    """The initial weights."""
    if not run.flags:
        return None
    if run.flags.get("pretrained_ckpt"):
        return f"From the checkpoint {last_name(str(run.flags['pretrained_ckpt']))}."
    if run.flags.get("preset") == "tiny":
        return "From the package's base, pretrained on synthetic scenes."
    return "From the published weights of its parts."


def training(run: RunResults) -> str | None:
    """The training flags."""
    flags = {name: run.flags.get(name) for name in _TRAINING_FLAGS}
    if flags["max_steps"] is not None:
        del flags["epochs"]  # --max-steps replaces it
    shown = [f"{name} {value}" for name, value in flags.items() if value is not None and value is not False]
    return f"AdamW; {', '.join(shown)}." if shown else None


def selection(run: RunResults) -> str | None:
    """How the checkpoint was selected."""
    validated = sum("val_acc" in line or "val_loss" in line for line in run.log)
    if not validated:
        return None
    metric = run.flags.get("best_metric", "a validation figure")
    return f"The checkpoint with the best {metric} in {validated} validations; no test video takes part."


def ensembles(run: RunResults) -> str | None:
    """Whether models were combined."""
    return "None: one model."


def metrics(run: RunResults) -> str | None:
    """The metrics' definitions."""
    return (
        "Accuracy; macro precision, recall and F1 over the labels that occur in the truth (mAP, mAR, mAF1; precision "
        "is 0 for a label that is never predicted); F1 weighted by support (wF1). SSG-VQA-Net's definition."
    )


def uncertainty(run: RunResults) -> str | None:
    """Intervals and tests."""
    found = run.report.intervals
    if found is None:
        return "No intervals: they need at least two videos."
    return f"95% intervals: {found.method}, {found.videos} videos. Comparisons are paired by video (surgvivqa compare)."


def robustness(run: RunResults) -> str | None:
    """Behaviour under changed input."""
    return _whether(run, "robustness", "Accuracy under corrupted frames is reported in metrics.json (robustness).")


def explanation(run: RunResults) -> str | None:
    """Explanations and their check."""
    return _whether(
        run, "evidence", "Evidence by occlusion of the asked object is reported in metrics.json (evidence)."
    )


def calibration(run: RunResults) -> str | None:
    """Calibration of the probabilities."""
    found = run.report.calibration
    if found is None:
        return "Not evaluated."
    ece = f"Expected calibration error {percent(found.figures.ece)}%"
    return f"{ece}, Brier score {found.figures.brier:.3f}; metrics.json has the definitions and curves (calibration)."


def internal(run: RunResults) -> str | None:
    """Evaluation on the same source."""
    report = run.report
    questions = f"{report.metrics.overall.n:,} questions of the {report.split} split"
    return f"{questions}, from the same source as the training data."


def external(run: RunResults) -> str | None:
    """Evaluation on another source."""
    return "None in this run: how the model does on another hospital's videos is not known."


def fairness(run: RunResults) -> str | None:
    """Groups of patients."""
    return "Not evaluated: the data set has no patients' characteristics. Accuracy by video is reported."


def flow(run: RunResults) -> str | None:
    """Numbers in and out."""
    return inclusion(run)


def patients(run: RunResults) -> str | None:
    """The patients' characteristics."""
    return _DRAWN if run.report.synthetic else "Not in the data set; the videos are " + _names(run) + "."


def performance(run: RunResults) -> str | None:
    """The metrics with their intervals."""
    overall, intervals = run.report.metrics.overall, run.report.intervals
    figures = []
    for name in METRICS:
        ends = "" if intervals is None else f" ({between(*intervals.ends[name])})"
        figures.append(f"{name} {percent(getattr(overall, name))}%{ends}")
    return f"{'; '.join(figures)}."


def by_group(run: RunResults) -> str | None:
    """The accuracy by group."""
    groups = run.report.metrics.by_reasoning | run.report.metrics.by_type
    shown = [f"{name} {percent(groups[name].acc)}% of {groups[name].n:,}" for name in _SHOWN_GROUPS if name in groups]
    return f"Accuracy: {'; '.join(shown)}." if shown else None


def baselines(run: RunResults) -> str | None:
    """What is reached without the frame."""
    rows = [row for row in run.report.baselines or () if row.metrics is not None and row.difference is not None]
    if not rows:
        return "Not evaluated: baselines need the training questions."
    told = []
    for row in rows:
        assert row.metrics is not None and row.difference is not None
        difference = f"{points(row.difference.difference)} points"
        ends = between(row.difference.low, row.difference.high, signed=True)
        told.append(f"{row.title} {percent(row.metrics.acc)}% (model minus baseline {difference}, {ends})")
    return f"Accuracy: {'; '.join(told)}."


def failures(run: RunResults) -> str | None:
    """Where the model is wrong."""
    wrong = sum(not p.correct for p in run.predictions)
    groups = {n: m for n, m in run.report.metrics.by_type.items() if n in _SHOWN_GROUPS}
    worst = min(groups, key=lambda name: groups[name].acc, default=None)
    least = "" if worst is None else f" The weakest type is {worst} ({percent(groups[worst].acc)}%)."
    return f"{wrong:,} of {len(run.predictions):,} answers are wrong; predictions.jsonl has each.{least}"


def full_model(run: RunResults) -> str | None:
    """What is needed to use the model."""
    if run.run_folder is None:
        return None
    return "The run folder has the weights, the settings (config.yaml) and a model card; surgvivqa predict applies it."


def limitations(run: RunResults) -> str | None:
    """The limits that the run shows."""
    found = []
    if run.report.synthetic:
        found.append("drawn scenes say nothing about real surgery")
    elif _other_data_set(run) is None:
        found.append(
            "labels made by detectors, not by people" + (" (if SSG-QA's)" if run.report.synthetic is None else "")
        )
        found.append("one kind of operation and one source of videos")
    if (videos := len(run.report.metrics.by_video)) < 20:
        found.append(f"{videos} test videos, so that intervals are wide")
    if run.report.mask == "bidirectional":
        found.append("an attention mask under which the answer leaks into its own prediction")
    if run.flags:
        found.append(f"one training run (seed {run.flags.get('seed')})")
    listed = "; ".join(found)
    return f"{listed[:1].upper()}{listed[1:]}." if listed else None


def use(run: RunResults) -> str | None:
    """What the model may be used for."""
    return "For research on surgical visual question answering, never for clinical use."


def protocol(run: RunResults) -> str | None:
    """Where the protocol is."""
    return "The evaluation protocol is docs/evaluation.md of surgvivqa."


def availability(run: RunResults) -> str | None:
    """What is available."""
    if run.report.synthetic:
        return "Software: surgvivqa, Apache-2.0; it makes the data. The model: to be filled by the authors."
    if (name := _other_data_set(run)) is not None:
        return f"Software: surgvivqa, Apache-2.0. Data: {name}. The model: to be filled by the authors."
    return (
        "Software: surgvivqa, Apache-2.0. Data: SSG-QA and CholecT45, CC BY-NC-SA 4.0, from their authors. The model: "
        "to be filled by the authors."
    )


def ethics(run: RunResults) -> str | None:
    """Approval and consent."""
    return _DRAWN if run.report.synthetic else None


def _section(run: RunResults, name: str) -> Any:
    """A section of ``metrics.json``; None where the evaluation does not have it."""
    return getattr(run.report, name, None)


def _whether(run: RunResults, name: str, answer: str) -> str:
    return "Not evaluated." if _section(run, name) is None else answer


def _if_ssgqa(run: RunResults) -> str:
    return (
        "Whether the questions are SSG-QA's own is not recorded; if they are: " if run.report.synthetic is None else ""
    )


def _num_labels(run: RunResults) -> int:
    return len(run.report.label_set)


def _other_data_set(run: RunResults) -> str | None:
    """The name of the data set whose labels the model chose from; None for SSG-QA's."""
    label_set = run.report.label_set
    return None if label_set.is_ssg_qa else label_set.name


def _names(run: RunResults) -> str:
    names: Sequence[str] = sorted(run.report.metrics.by_video)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
