"""The benchmark at its small size: both implementations agree, its output files, its operation counts."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import flops, profile, reference, run, scaling, scaling_report, switches
from benchmarks.models import build_model, make_clip, make_config
from benchmarks.profiled_stage import STAGES
from benchmarks.questions import (
    FRAME_QUESTIONS,
    KINDS,
    LABEL_IDS,
    best_loss_and_accuracy,
    hint_token,
    make_questions,
    more_labels,
)
from surgvivqa.data.labels import LABELS
from surgvivqa.data.packing import pack_training
from surgvivqa.model import attention
from surgvivqa.model.label_trie import LabelTrie
from surgvivqa.model.modeling import SurgViVQAModel
from surgvivqa.model.scoring import score_labels

pytestmark = pytest.mark.long

KEYS = {
    "train_ratio",
    "train_ratio_cached",
    "train_ratio_cached_text",
    "score_ratio",
    "answer_ratio",
    "max_loss_diff",
    "max_score_diff",
    "peak_memory_ratio",
}


def test_labels_have_the_shape_of_gpt2s_tokens() -> None:
    trie = LabelTrie(LABEL_IDS)
    assert len(LABEL_IDS) == len(LABELS) == 51
    assert sum(map(len, LABEL_IDS)) == 91
    assert sum(len(ids) == 1 for ids in LABEL_IDS) == 33
    assert len(trie.tokens) == 29


@pytest.mark.parametrize("times", [2, 4])
def test_more_labels_are_copies_of_the_trie(times: int) -> None:
    trie, one = LabelTrie(more_labels(times)), LabelTrie(LABEL_IDS)
    assert (len(trie.tokens), len(trie.edges)) == (times * len(one.tokens), times * len(one.edges))


def test_questions_have_the_length_of_the_data_sets() -> None:
    questions = make_questions(2000)
    lengths = [len(prompt) for prompt in questions.prompts]
    assert min(lengths) == 12 and max(lengths) in (29, 30)
    assert sum(lengths) / len(lengths) == pytest.approx(18, abs=0.3)
    assert questions.first(3) == make_questions(3)


def test_a_hint_names_one_label() -> None:
    labels = {label for kind in KINDS.values() for label in kind.answers}
    assert labels <= set(LABELS)
    assert len({hint_token(label) for label in labels}) == len(labels)


def test_following_the_hint_reaches_the_best_accuracy() -> None:
    questions, (loss, accuracy) = make_questions(20_000), best_loss_and_accuracy()
    names = {hint_token(label): LABELS.index(label) for kind in KINDS.values() for label in kind.answers}
    right = sum(names[p[-5]] == label for p, label in zip(questions.prompts, questions.labels, strict=True))
    assert right / 20_000 < accuracy + 0.01 < 0.75  # rare hints lose against frequent labels
    assert 0.5 < loss < 1.5


@pytest.mark.parametrize("mask", ["prefix", "bidirectional"])
def test_reference_and_project_agree(mask: str) -> None:
    ours, other, questions = (
        build_model("small", "cpu").eval(),
        reference.build_reference("small", "cpu"),
        make_questions(5),
    )
    other.eval()
    clip, few = make_clip(ours.config), LABEL_IDS[:15]
    video, theirs = ours.encode_video(clip), other.encode_video(clip.repeat(5, 1, 1, 1, 1))
    packed = pack_training([questions.prompts], [questions.answers], mask)
    with torch.no_grad():
        expected = reference.losses(other, questions.prompts, questions.answers, theirs, mask)
        torch.testing.assert_close(ours.question_losses(packed, video), expected, rtol=0, atol=1e-4)
    scores = score_labels(ours, [questions.prompts[:2]], video, LabelTrie(few), mask)
    expected = reference.scores(other, questions.prompts[:2], few, theirs, mask)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-4)


def test_a_wrong_mask_is_detected() -> None:
    """The losses of the two masks differ by far more than the tolerance."""
    model, questions = reference.build_reference("small", "cpu").eval(), make_questions(2)
    longest = LABEL_IDS[13]
    video = model.encode_video(make_clip(make_config("small")).repeat(2, 1, 1, 1, 1))
    with torch.no_grad():
        prefix, leaky = (
            reference.losses(model, questions.prompts, [longest] * 2, video, mask)
            for mask in ("prefix", "bidirectional")
        )
    assert (prefix - leaky).abs().min() > 100 * run.TOLERANCE


def test_training_operations_match_pytorchs_count() -> None:
    model, questions = build_model("small", "cpu"), make_questions(FRAME_QUESTIONS)
    packed = pack_training([questions.prompts], [questions.answers], "prefix")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model.question_losses(packed, model.encode_video(make_clip(model.config))).mean().backward()
    assert sum(flops.breakdown(model.config, packed, train=True).values()) == counter.get_total_flops()


def test_scoring_operations_match_pytorchs_count() -> None:
    model, prompts, trie = build_model("small", "cpu").eval(), make_questions(4).prompts, LabelTrie(LABEL_IDS)
    video = model.encode_video(make_clip(model.config))
    packed = scaling.scoring_stream(prompts, trie, "prefix")
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model.target_log_probs(packed, video)
    assert sum(flops.breakdown(model.config, packed, video=False).values()) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("y", "expected"), [([1, 1, 1], 0.0), ([1, 2, 4], 1.0), ([1, 4, 16], 2.0)], ids=["flat", "line", "square"]
)
def test_slope_is_the_exponent(y: Sequence[float], expected: float) -> None:
    assert scaling_report.slope([1, 2, 4], y) == pytest.approx(expected)


def test_nan_counts_as_a_difference() -> None:
    assert run.largest_difference([1.0, float("nan")], [1.0, 2.0]) == float("inf")
    assert run.largest_difference([[1.0, 2.0]], [[1.5, 2.0]]) == 0.5


def test_a_stage_runs_in_a_process_of_its_own(tmp_path: Path) -> None:
    figures = run.run_process(["gemm"], "small", "cpu", tmp_path, 1)["gemm"]
    assert figures["flops_per_second"] > 0 and figures["peak_bytes"] > 0


def test_an_ablation_can_be_restricted_to_some_switches(capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["--size=small", "--ablation", "--passes=1", "--stage=train_text", "--without=dropout"])
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["nothing", "dropout"]


def test_no_switch_changes_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    """``main`` exits if one does."""
    profile.main(["--size=small", "--ablation", "--passes=1"])
    rows = capsys.readouterr().out.splitlines()[2:]
    measured = {(row.split(" | ")[0].strip("| "), row.split(" | ")[1]) for row in rows}
    every = {(s, name) for s in STAGES for name in switches.WITHOUT if switches.has_effect(name, s)}
    assert measured == every | {(s, "nothing") for s in STAGES}


def test_a_switch_that_changes_numbers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def without_masks(model: SurgViVQAModel) -> AbstractContextManager[None]:
        return switches.patched(
            attention, "scaled_dot_product_attention", lambda q, k, v, **_: scaled_dot_product_attention(q, k, v)
        )

    monkeypatch.setitem(switches.WITHOUT, "activation", without_masks)
    with pytest.raises(SystemExit, match="without activation: numbers differ"):
        profile.main(["--size=small", "--stage=score", "--without=activation"])


def test_profile_separates_parts_and_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["--size=small", "--stage=train_cached", "--without=packing"])
    printed = capsys.readouterr().out
    assert "train_cached, without packing" in printed
    for name in ("BLIP", "GPT-2 and output layer, backward", "matrix products", "adapters' dropout", "fused attention"):
        assert name in printed
    assert "VideoMAE" not in printed


def test_frames_per_step_are_measured(capsys: pytest.CaptureFixture[str]) -> None:
    profile.main(["--size=small", "--frames", "--most=2", "--live"])
    rows = [row.split(" | ") for row in capsys.readouterr().out.splitlines()[2:]]
    assert [row[1] for row in rows] == ["39", "78"]


@pytest.mark.slow
def test_a_run_writes_summary_table_and_plot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--size=small", "--rounds=1", "--device=cpu", "--json", f"--out={tmp_path}"]) == 0
    printed = capsys.readouterr()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert json.loads(printed.out) == summary
    assert summary.keys() >= KEYS | {"machine", "threads", "stages", "scaling"}
    assert all(summary[key] > 0 for key in KEYS - {"max_loss_diff", "max_score_diff"})
    assert 0 <= summary["max_loss_diff"] <= 1e-4 and 0 <= summary["max_score_diff"] <= 1e-4
    assert all(f["raw"] for f in summary["stages"].values())
    assert "time / floor" in (tmp_path / "table.md").read_text()
    assert "training step, reference implementation (round 1)" in printed.err
    pytest.importorskip("matplotlib")
    assert (tmp_path / "scaling.png").stat().st_size > 0


def test_a_disagreement_fails_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "compare", lambda *_: {"max_loss_diff": 2e-4, "max_score_diff": 0.0})
    monkeypatch.setattr(run, "comparison_table", lambda _: [])
    assert run.main(["--size=small", "--device=cpu", "--only=compare", f"--out={tmp_path}"]) == 1
    assert "disagree" in capsys.readouterr().err
