"""The flags of ``surgvivqa eval``."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from surgvivqa.config import DataConfig, FeatureCacheConfig, OptionalModelConfig, ScoreNorm, flag
from surgvivqa.data.corruptions import CORRUPTIONS
from surgvivqa.data.frame_views import Shown
from surgvivqa.model.generation import MAX_NEW_TOKENS


@dataclass(kw_only=True)
class EvalConfig(FeatureCacheConfig, DataConfig):
    """Scores all labels for every question of a split and writes predictions.jsonl and metrics.json.

    Model flags apply to a checkpoint without settings (a lone .pth). --prompt-mode, --mask and --max-length also
    override the settings of other checkpoints.
    """

    checkpoint: Path = flag("A run folder, its best/, a .pth state dict, a hub name, or tiny (the packaged base).")
    output: Path | None = flag("Folder for the results. Default: eval-<split> in the run folder.", None)
    split: Literal["train", "val", "test"] = flag("Split to evaluate.", "test")
    score_norm: ScoreNorm = flag(
        "How a label's score is computed from its tokens' log-probabilities: their sum, or their mean as published, "
        "which favours long labels.",
        "sum",
    )
    scores: bool = flag("Also write the log-probability of every label to predictions.jsonl.", False)
    fit_temperature: bool = flag(
        "Fit a temperature for the probabilities on the validation split, and store it beside the checkpoint for later "
        "evaluations and predict. Needs --split val.",
        False,
    )
    ask_partners: int = flag(
        "Number of frames, spread over the videos, about which partner questions are generated and asked: how many for "
        "are there any, right for left, other wordings. The model's contradictions are counted on these too.",
        0,
        least=0,
    )
    generate: bool = flag(
        "Also generate an answer to each question as text, by greedy decoding, and compare it with the data set's long "
        "answer; for a checkpoint that was trained with --target long.",
        False,
    )
    max_new_tokens: int = flag("Maximum number of tokens of a generated answer.", MAX_NEW_TOKENS, least=1, most=4096)
    answer_only: bool = flag(
        "Skip the scores of labels that cannot win; on a GPU only if that is faster. The answers are the same; "
        "probability and top5 are null.",
        False,
    )
    batch_size: int | None = flag(
        "Maximum number of questions in a pass. Frames are encoded once with any value. Default: 40 on a CPU; on a GPU "
        "what its free memory allows, up to 32 frames with 40 questions each.",
        None,
        least=1,
    )
    only: Path | None = flag(
        "Evaluate only the questions that a file lists, such as confirmed.jsonl of `surgvivqa data audit`: JSON lines "
        "with video, frame and question. Default output: eval-<split>-only-<file>.",
        None,
    )
    max_samples: int | None = flag("Maximum number of questions, spread over the videos.", None, least=1)
    frames: Shown | None = flag(
        "Pictures that the model is shown. own: the questions' frames. black: black pictures. shuffled: frames of "
        "other videos. Default: own, or black for a checkpoint that was trained with --blank-video.",
        None,
    )
    check_samples: int = flag(
        "Number of questions, spread over the videos, that are asked again on black pictures and on frames of other "
        "videos, to show what the model takes from the picture; 0 asks none.",
        2000,
        least=0,
    )
    corrupt: list[str] | None = flag(
        "Ask the --check-samples questions on corrupted frames too: NAME:SEVERITY (1 to 5), NAME for all severities, "
        f"or all. Names: {', '.join(CORRUPTIONS)}.",
        None,
    )
    strata: Path | None = flag(
        "Table of frame flags, such as smoke, as CSV or JSON with the columns video and frame and one column for each "
        "flag; prints the accuracy on the frames with and without each flag.",
        None,
    )
    baseline: list[Path] | None = flag(
        "Run folders or folders of evaluations on the same questions, which are set beside the model with their paired "
        "differences; for example a run on blank pictures.",
        None,
    )
    evidence: int | None = flag(
        "Number of questions, spread over the videos, for which the asked object is covered (the answer should change) "
        "and equal areas elsewhere (it should not), and for which heat maps are written to overlays.jsonl. Each takes "
        "about as long as encoding 30 frames.",
        None,
        least=1,
    )
    scene_graph_root: Path | None = flag(
        "Folder of SSG-QA's scene graphs, <root>/<VIDxx>_<frame>.json, whose boxes --evidence needs.", None
    )
    bf16: bool = flag("Compute in bfloat16; for a GPU.", False)
    fp16: bool = flag("Compute in float16, which rounds less than bfloat16; needs a GPU.", False)
    tf32: bool = flag(
        "Allow TF32 in float32 products on a GPU: faster, with 11 significant bits. It also speeds up the output "
        "layer under --bf16 and --fp16.",
        False,
    )
    verify: bool = flag("Verify the checksums of the checkpoint.", True)
    model: Annotated[OptionalModelConfig, tyro.conf.OmitArgPrefixes] = dataclasses.field(
        default_factory=OptionalModelConfig
    )
