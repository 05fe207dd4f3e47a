"""Model cards: metadata that the hub reads, published figures beside ours only where they may be, nothing private."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from surgvivqa.checkpoints.loading import load_checkpoint
from surgvivqa.checkpoints.model_card import trained_parts, write_model_card
from surgvivqa.checkpoints.public_settings import hub_name, public_run, public_settings
from surgvivqa.config import ModelConfig, TrainConfig, plain_values
from surgvivqa.data.splits import TEST_VIDEOS, load_splits
from surgvivqa.evaluation.metrics import METRICS
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.model.bundle import RunRecord
from surgvivqa.training.initial_model import build_for_training
from surgvivqa.utils.errors import InputError
from surgvivqa.utils.secrets import mask_secrets

HOME = "/home/jane.doe/project"
TABLE = [
    ("visual_encoder", 0, 86_227_200),
    ("text_encoder", 0, 100),
    ("llm base", 0, 100),
    ("llm LoRA", 811_008, 811_008),
]


def a_run(**flags: Any) -> dict[str, Any]:
    """A run all of whose path flags lie in a home folder."""
    paths = {"ssgvqa_root": f"{HOME}/ssg-qa", "image_root": f"{HOME}/frames", "checkpoint_dir": f"{HOME}/runs/x"}
    paths |= {"cache": f"{HOME}/cache", "log_file": f"{HOME}/x.log", "pretrained_ckpt": f"{HOME}/first/best"}
    run = plain_values(TrainConfig(max_steps=30_000)) | {k: str(v) for k, v in paths.items()}
    return run | {"train_videos": list(load_splits().train), "synthetic": False} | flags


def figures(n: int = 170_000, **more: Any) -> dict[str, Any]:
    """What ``eval`` writes for the whole test split."""
    row = {"n": n, "acc": 0.612, "mAP": 0.55, "mAR": 0.49, "mAF1": 0.507, "wF1": 0.6}
    ends = {name: [0.5001, 0.6999] for name in METRICS}
    made = {"method": "percentile bootstrap over videos", "level": 0.95, "resamples": 1000, "seed": 0, "videos": 5}
    metrics: dict[str, Any] = {**row, "intervals": ends | made, "by_video": dict.fromkeys(sorted(TEST_VIDEOS), row)}
    metrics |= {"by_type": {"object": row, "exist": row}, "by_reasoning": {"one_hop": row}}
    metrics |= {"split": "test", "max_samples": None, "synthetic": False, "mask": "prefix", "prompt_mode": "simple"}
    return metrics | {"score_norm": "sum", "checkpoint": f"{HOME}/runs/x"} | more


def card(folder: Path, settings: ModelConfig | None = None, **given: Any) -> str:
    inputs = {"run": a_run(), "metrics": figures(), "trained": TABLE} | given
    metrics = inputs.pop("metrics")
    inputs["report"] = None if metrics is None else EvaluationReport.from_json(metrics)
    run = inputs["run"]
    flags = {name: run[name] for name in run if name in TrainConfig.__dataclass_fields__}
    inputs["run"] = RunRecord(flags, tuple(run.get("train_videos", ())), run.get("synthetic"))
    return write_model_card(folder, settings or ModelConfig(), **inputs).read_text(encoding="utf-8")


def front(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text.split("---\n")[1]))


def test_the_hubs_library_reads_metadata_and_figures_back(tmp_path: Path) -> None:
    text = card(tmp_path, repo="lab/surgvivqa-lora")
    data: Any = ModelCard(text).data
    assert data.license == "cc-by-nc-sa-4.0"
    assert (data.library_name, data.pipeline_tag) == ("surgvivqa", "visual-question-answering")
    assert data.base_model == ["MCG-NJU/videomae-base", "Salesforce/blip-vqa-base", "gpt2"]
    assert data.model_name == "surgvivqa-lora"
    assert data.eval_results is not None
    assert [r.metric_value for r in data.eval_results] == [0.612, 0.55, 0.49, 0.507, 0.6]
    assert {(r.dataset_name, r.dataset_split) for r in data.eval_results} == {("SSG-QA", "test")}
    assert front(text)["model-index"][0]["results"][0]["task"]["type"] == "visual-question-answering"
    assert front(text)["datasets"] == ["ssg-qa"]


def test_the_card_has_usage_data_training_and_metrics(tmp_path: Path) -> None:
    text = card(tmp_path, repo="lab/surgvivqa-lora")
    for said in (
        'SurgViVQAModel.from_pretrained("lab/surgvivqa-lora")',
        "Trained on 35 videos; validated on 5, with 5 kept for the test: the standard split",
        "| `--max-steps` | 30000 |",
        "| `--lr` | 0.0005 |",
        "| `--frame-fit` | squash |",
        "| LoRA adapters on the decoder | 811,008 | 811,008 | 100% |",
        "| acc | 61.2 | 50.0 to 70.0 | 60.8 |",
        "| object | 170,000 | 61.2 | 55.0 | 49.0 | 50.7 | 60.0 | 49.4 |",
        "Never for clinical use",
        "CC BY-NC-SA 4.0",
        "no answer leaks",
    ):
        assert said in text, said
    assert "epochs" not in text  # --max-steps was given


def test_every_table_has_as_many_cells_in_every_row(tmp_path: Path) -> None:
    for block in re.findall(r"(?:^\|.*\n?)+", card(tmp_path), re.MULTILINE):
        assert len({row.count("|") for row in block.strip().splitlines()}) == 1, block


@pytest.mark.parametrize(
    "metrics",
    [
        figures(n=4_518),
        figures(max_samples=60_000),
        figures(skipped_frames=[{"video": "VID02", "frame": 1, "why": "it cannot be read"}]),
        figures(synthetic=True),
        figures(split="val"),
        figures(by_video={"VID02": {"n": 1, **dict.fromkeys(METRICS, 0.5)}}),
        {k: v for k, v in figures().items() if k != "synthetic"},
    ],
)
def test_published_metrics_are_shown_only_for_the_complete_standard_test_split(
    metrics: dict[str, Any], tmp_path: Path
) -> None:
    text = card(tmp_path, metrics=metrics)
    assert "60.8" not in text and "49.4" not in text and "No published figure is set beside these" in text


def test_a_model_that_was_not_evaluated_has_no_metrics(tmp_path: Path) -> None:
    text = card(tmp_path, metrics=None, trained=None, run={})
    assert "## Figures\n\nNot evaluated." in text
    assert "model-index" not in text
    assert "not recorded" in text and "not known whether a test video was among them" in text


def test_metrics_without_intervals_say_so(tmp_path: Path) -> None:
    text = card(tmp_path, metrics=figures(intervals=None))
    assert "| acc | 61.2 | none |" in text and "There are no intervals" in text


def test_figures_on_training_videos_are_no_result(tmp_path: Path) -> None:
    text = card(tmp_path, metrics=figures(split="train"))
    assert "model-index" not in text and "no measure of how well it answers" in text


def test_the_leaky_mask_is_warned_of(tmp_path: Path) -> None:
    assert "the answer leaks in training" not in card(tmp_path)
    assert "the answer leaks in training" in card(tmp_path, ModelConfig(mask="bidirectional"))
    text = card(tmp_path, metrics=figures(mask="bidirectional"))
    assert "the answer leaks in training" in text and "Scored with `--mask bidirectional`" in text


def test_a_test_video_among_the_training_videos_is_reported(tmp_path: Path) -> None:
    text = card(tmp_path, run=a_run(train_videos=["VID04", "VID22_clean"]))
    assert "**1 of them test videos of the standard split**" in text and "None of the standard" not in text


def test_a_synthetic_set_is_never_called_ssgqa(tmp_path: Path) -> None:
    run = a_run(synthetic=True, seed=0, pretrained_ckpt=None)
    text = card(tmp_path, ModelConfig(preset="tiny"), run=run, metrics=figures(synthetic=True))
    assert "datasets" not in front(text) and "base_model" not in front(text)
    assert front(text)["license"] == "apache-2.0"
    assert front(text)["model-index"][0]["results"][0]["dataset"]["type"] == "surgvivqa-synthetic"
    assert "say nothing about real surgery" in text and "CholecT45, one frame" not in text
    assert "| `--seed` | 0 |" in text
    later = card(tmp_path, run=run | {"pretrained_ckpt": "runs/first"})  # which may have learned from SSG-QA
    assert front(later)["license"] == "cc-by-nc-sa-4.0" and "drawn scenes alone" not in later


def test_the_training_data_of_an_older_run_is_looked_up_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "set" / "ssg-qa").mkdir(parents=True)
    (tmp_path / "set" / "synthetic.json").write_text("{}")
    run = a_run(ssgvqa_root=str(tmp_path / "set" / "ssg-qa"))
    del run["synthetic"]
    assert "Drawn scenes and questions" in card(tmp_path, run=run)
    text = card(tmp_path, run=run | {"ssgvqa_root": "runs/gone"}, metrics={**figures(), "synthetic": None})
    assert "whether they were SSG-QA's own is not recorded" in text
    assert "datasets" not in front(text) and "model-index" not in text
    assert front(text)["license"] == "cc-by-nc-sa-4.0"


def test_the_licence_is_the_users_choice(tmp_path: Path) -> None:
    data = front(card(tmp_path, licence="other"))
    assert (data["license"], data["license_name"]) == ("other", "see-model-card")
    with pytest.raises(InputError, match="not a licence identifier"):
        card(tmp_path, licence="my own: terms")


def test_a_missing_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        card(tmp_path / "absent")


def test_a_card_holds_nothing_private(tmp_path: Path) -> None:
    settings = ModelConfig(
        video_model=f"{HOME}/models/videomae-ours",
        text_model=f"{HOME}/.cache/huggingface/hub/models--Salesforce--blip-vqa-base/snapshots/0a1b2c",
        decoder_model="C:\\Users\\jane.doe\\gpt2-ours",
    )
    odd = {"schedule": f"{HOME}/secret", "best_metric": "~/jane.doe/x", "user": "jane.doe"}
    text = card(tmp_path, settings, run=a_run(**odd, splits_dir=f"{HOME}/splits"))
    for private in ("jane", "/home", "project", "Users", HOME, str(tmp_path), ".cache", "snapshots"):
        assert private not in text, private
    assert "`videomae-ours` (a local copy)" in text and "`gpt2-ours` (a local copy)" in text
    assert front(text)["base_model"] == ["Salesforce/blip-vqa-base"]


def test_published_settings_hold_no_paths() -> None:
    run = public_run(a_run(video_model=f"{HOME}/videomae"))
    assert "jane" not in json.dumps(run) and "/" not in run["video_model"]
    assert run["train_videos"] == list(load_splits().train) and run["max_steps"] == 30_000
    assert not {"ssgvqa_root", "image_root", "checkpoint_dir", "cache", "log_file", "pretrained_ckpt"} & set(run)
    config = public_settings(
        {"video_config": {"_name_or_path": f"{HOME}/videomae"}, "files": [f"{HOME}/a", "a/b", "</s>"]}
    )
    assert config == {"video_config": {"_name_or_path": "videomae"}, "files": ["a", "a/b", "</s>"]}


def test_hub_names_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hub_name("gpt2") == "gpt2"
    assert hub_name("/x/models--gpt2/snapshots/0a1b") == "gpt2"
    assert hub_name("./gpt2") is None and hub_name("~/gpt2") is None and hub_name("a/b/c") is None
    (tmp_path / "gpt2").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_name("gpt2") is None  # Transformers takes the folder then


def test_tokens_are_masked() -> None:
    message = mask_secrets("401 for hf_AbC123 (Authorization: Bearer xyz.abc) at https://jane:pw@hub/x")
    assert message == "401 for hf_*** (Authorization: Bearer ***) at https://***@hub/x"


def test_trained_parts_follow_from_the_runs_flags_without_changing_the_model() -> None:
    config = TrainConfig(preset="tiny", unfreeze_blip_last_n=1)
    trained = build_for_training(config)
    trained.run = RunRecord(plain_values(config))
    expected = [(p, q) for p, q in trained.model.named_parameters()]
    before = {name: p.requires_grad for name, p in expected}
    rows = {part: count for part, count, _ in trained_parts(trained)}
    assert rows["llm LoRA"] == 45_056 and rows["text_encoder"] > 0 and rows["visual_encoder"] == 0
    assert before == {name: p.requires_grad for name, p in trained.model.named_parameters()}
    assert trained_parts(load_checkpoint(Path("tiny"), ModelConfig())) == []
