"""The evidence of ``surgvivqa eval --evidence``: does the answer depend on the object that is asked about?"""

from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from surgvivqa.data.frames import FrameStore
from surgvivqa.data.ssgqa import FrameQuestions
from surgvivqa.evaluation.evidence import Evidence, summarise_evidence
from surgvivqa.explanation.evidence import CONTROLS, METHODS, EvidenceRun, ground_frames
from surgvivqa.explanation.occlusion import Fill
from surgvivqa.explanation.overlay import Overlay
from surgvivqa.model.bundle import ModelBundle
from surgvivqa.utils.distributed import raise_on_all_ranks, shard_and_gather
from surgvivqa.utils.errors import InputError


def check_evidence_flags(count: int | None, root: Path | None) -> None:
    """Checks --evidence and --scene-graph-root, which need one another.

    Raises:
        InputError: one of them is missing, or the folder does not exist.
    """
    if count is not None and root is None:
        raise InputError(
            "--evidence needs the boxes of the objects; give the folder of scene graphs, --scene-graph-root."
        )
    if count is None and root is not None:
        raise InputError("--scene-graph-root is used by --evidence only; add --evidence 200, or leave it out.")
    if root is not None and not root.is_dir():
        raise InputError(f"--scene-graph-root {root} is not a folder; give the folder of <VIDxx>_<frame>.json files.")


def check_scene_graphs(frames: Sequence[FrameQuestions], root: Path, count: int) -> None:
    """Checks the scene graphs that ``measure_evidence`` will read, before hours of predictions.

    Args:
        frames: the frames with their questions.
        root: the folder of the scene graphs.
        count: number of questions.

    Raises:
        InputError: a scene graph is damaged, no frame has one, or none has a question whose objects are known.
    """
    left_out = Counter[str]()
    grounded = ground_frames(frames, root, count, left_out)
    if not any(frame.questions for frame in grounded):
        raise _nothing_to_measure(len(grounded), left_out)


def measure_evidence(
    bundle: ModelBundle,
    frames: Sequence[FrameQuestions],
    store: FrameStore,
    root: Path,
    count: int,
    *,
    skip: Collection[tuple[str, int]] = (),
    score_norm: str = "sum",
    fill: Fill = "surround",
) -> tuple[Evidence, list[Overlay]]:
    """Measures evidence on some questions; processes started by torchrun share the frames.

    Args:
        bundle: the model in eval mode, without parameters that require a gradient.
        frames: the frames with their questions.
        store: the frames on disk.
        root: the folder of the scene graphs.
        count: number of questions, spread over the videos.
        skip: video and number of frames that cannot be used.
        score_norm: how a label's score follows from its tokens.
        fill: what covers boxes.

    Returns:
        The section of ``metrics.json``, and the overlays of the measured questions.

    Raises:
        InputError: a scene graph is damaged, no frame has one, or no question can be measured.
        FrameError: a frame that is not in ``skip`` cannot be used.
    """
    with raise_on_all_ranks():
        left_out = Counter[str]()
        grounded = [f for f in ground_frames(frames, root, count, left_out) if (f.video, f.frame) not in skip]
    run = EvidenceRun(bundle, store, score_norm, fill)

    results = shard_and_gather(
        grounded,
        lambda part: [run.measure(frame) for frame in part],
        lambda frame: (frame.video, frame.frame),
        lambda result: (result.video, result.frame),
    )
    for result in results:
        left_out += result.left_out
    records = [record for result in results for record in result.records]
    if not records:
        raise _nothing_to_measure(len(grounded), left_out)
    evidence = summarise_evidence(records, METHODS, fill=fill, controls=CONTROLS, left_out=left_out)
    return evidence, [overlay for result in results for overlay in result.overlays]


def _nothing_to_measure(frames: int, left_out: Counter[str]) -> InputError:
    reasons = ", ".join(f"{number} {reason}" for reason, number in left_out.items()) or "they have none"
    return InputError(
        f"No question of the {frames} frames chosen for --evidence can be measured ({reasons}); give a larger number."
    )
