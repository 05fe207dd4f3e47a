"""The report: what it shows, and what it says where something is missing."""

import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from surgvivqa.cli import main
from surgvivqa.evaluation.report import EvaluationReport
from surgvivqa.explanation.overlay import Overlay, OverlayMap, write_overlays
from surgvivqa.explanation.scene_graphs import Box
from surgvivqa.reporting import charts
from surgvivqa.reporting.report import SECTIONS, render_report
from surgvivqa.reporting.results import read_results
from surgvivqa.reporting.sections import MISSING
from tests.helpers import sections
from tests.helpers.runs_on_disk import HOSTILE, make_predictions, write_frames, write_run

PREDICTIONS = make_predictions(240)


class Outline(HTMLParser):
    """The ids, links, headings and controls of a page, and whether its elements are closed."""

    VOID = ("meta", "link", "input", "img", "br", "wbr", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.labels: list[str] = []
        self.named: list[str] = []
        self.counts: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.counts[tag] = self.counts.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "a":
            self.links.append(str(found["href"]))
        if tag == "label" and found.get("for"):
            self.labels.append(str(found["for"]))
        if tag in ("select", "input") and found.get("id"):
            self.named.append(str(found["id"]))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.counts[tag] = self.counts.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes <{self.open[-1:]}>"
        self.open.pop()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_frames(root / "frames")
    write_run(root / "lora", PREDICTIONS, frames=root / "frames")
    worst = PREDICTIONS[0]
    maps = {name: OverlayMap(name, ((0.0, 1.0), (0.5, 0.2))) for name in ("attention", "occlusion")}
    overlay = Overlay(worst.video, worst.frame, worst.question, maps, (Box(0.1, 0.1, 0.4, 0.4),), ())
    write_overlays(root / "lora" / "eval-test", [overlay])
    return root / "lora"


@pytest.fixture(scope="module")
def page(run: Path) -> str:
    return render_report([read_results(run)], pictures=40)


@pytest.fixture
def all_sections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    plain = EvaluationReport.to_json
    monkeypatch.setattr(EvaluationReport, "to_json", lambda self: plain(self) | sections.ALL)
    yield


def text_of(page: str) -> str:
    body = re.sub(r"<(style|script|svg)\b.*?</\1>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", "", body))


def test_elements_are_closed_ids_are_unique_and_links_lead_to_them(page: str) -> None:
    outline = Outline(page)
    assert outline.open == [] and len(outline.ids) == len(set(outline.ids))
    assert {link.removeprefix("#") for link in outline.links} <= set(outline.ids)
    assert {f"run1-{name}" for name in SECTIONS} <= set(outline.ids)


def test_every_control_has_a_label(page: str) -> None:
    outline = Outline(page)
    assert outline.named and set(outline.named) <= set(outline.labels)


def test_markup_of_a_question_is_text(page: str) -> None:
    assert HOSTILE not in page and "Is &lt;script&gt;alert(1)&lt;/script&gt; there?" in page
    assert Outline(page).counts["script"] == 1


def test_the_page_names_nothing_to_load_and_no_local_folder(page: str, run: Path) -> None:
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|url\((?!#)|@import', page) == []
    assert str(run.parent) not in page and "/home/someone" not in page


def test_absent_sections_say_what_is_missing(page: str) -> None:
    text = text_of(page)
    assert all(missing in text for name, missing in MISSING.items())
    assert "No baselines are recorded" in text and "what the questions alone give was not measured" in text


def test_the_gallery_begins_with_the_most_confident_mistake_and_its_maps(page: str) -> None:
    first = page[page.index('<ol class="cards">') :].split("</li>")[0]
    assert "&lt;script&gt;" in first and first.count('class="overlay heat-map"') == 2 and 'class="asked"' in first
    assert 'data-outcome="wrong"' in first and "data:image/webp" in first
    assert page.count('data-outcome="') == 40 and "data-overlay" in page


@pytest.mark.usefixtures("all_sections")
def test_every_section_is_shown_where_the_evaluation_has_it(run: Path) -> None:
    page = render_report([read_results(run)], pictures=0)
    text = text_of(page)
    assert not any(missing in text for missing in MISSING.values())
    for words in (
        "a frame of another video",
        "70.0% (60.0 to 80.0) of the generated answers hold the short answer",
        "9 distinct texts. 3 questions have no long answer.",
        "55.0% (50.0 to 60.0) against black frames",
        "At temperature 1.40",
        "motion blur",
        "bleeding",
        "Are there any hooks? True",
        "an equal area elsewhere",
        "The answers depend on the asked object.",
        "Same model on black frames",
    ):
        assert words in text
    Outline(page)


def test_training_curves_follow_the_pages_colours(page: str) -> None:
    assert page.count('<figure class="chart">') == 4
    assert 'stroke="var(--c1)"' in page and not re.search(r'(?:fill|stroke)="#(?!0000)[0-9a-fA-F]{3,6}"', page)


def test_changed_flags_are_marked_and_folders_left_out(page: str) -> None:
    changed = re.findall(r'<tr class="changed"><th scope="row"><code>([^<]*)', page)
    assert "--lr" in changed and "--batch-size" not in changed and "--ssgvqa-root" not in page


def test_frames_that_are_not_found_leave_a_gallery_of_text_that_says_why(run: Path, tmp_path: Path) -> None:
    page = render_report([read_results(run)], image_root=tmp_path, pictures=10)
    assert 'class="picture"' not in page and "frames have no picture: Frame VID" in text_of(page)
    assert page.count('data-outcome="') == 10


def test_several_runs_share_a_table_and_seeds_have_a_spread(run: Path, tmp_path: Path) -> None:
    write_run(tmp_path / "other", make_predictions(240)[::-1], seed=1, frames=run.parent / "frames")
    page = render_report([read_results(run), read_results(tmp_path / "other")], pictures=10)
    text = text_of(page)
    assert "One recipe, 2 seeds" in text and "The runs side by side" in text
    outline = Outline(page)
    assert len(outline.ids) == len(set(outline.ids)) and {"run1-gallery", "run2-gallery"} <= set(outline.ids)
    assert page.count('data-outcome="') == 10


def test_runs_of_equal_names_are_told_apart(run: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path / name, PREDICTIONS[:30])
    runs = [read_results(tmp_path / name / "eval-test") for name in ("a", "b")]
    page = render_report(runs, pictures=0)
    assert '<a href="#run1" class="of-run">a/eval-test</a>' in page and ">b/eval-test</a>" in page


def test_the_command_writes_one_file(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(run), "--output", str(tmp_path / "r.html"), "--pictures", "4"]) == 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>") and "MB)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "absent/r.html"], "the folder absent does not exist"),
        (["--output", "."], "--output . is a folder; give the name of a file in it."),
        (["--image-root", "absent"], "--image-root absent is not a folder"),
        (["--split", "val"], "surgvivqa eval --checkpoint"),
    ],
)
def test_wrong_flags_are_one_sentence(
    run: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(run), *flags]) == 2
    assert message in capsys.readouterr().err


def test_no_run_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert "A report needs at least one run" in capsys.readouterr().err


def test_no_frame_is_in_a_page_without_pictures(run: Path) -> None:
    page = render_report([read_results(run)], pictures=0)
    assert "data:image/webp" not in page and "No question is shown, because --pictures is 0." in text_of(page)


def test_the_summary_says_nothing_twice(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "lora")
    path = tmp_path / "lora" / "eval-test" / "metrics.json"
    own = ["The model does not beat the question-only baseline: 1.", "Also below it: 2.", "How far is not known."]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"verdicts": own}))
    text = text_of(render_report([read_results(tmp_path / "lora")], pictures=0))
    assert [text.count(sentence) for sentence in own] == [1, 1, 1]
    assert "a baseline that never sees a frame" not in text


def test_without_altair_one_sentence_says_what_to_install(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(charts, "alt", None)
    assert main(["report", str(run)]) == 2
    assert "pip install 'surgvivqa[report]'" in capsys.readouterr().err
