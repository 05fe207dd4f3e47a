"""The report in a browser: nothing is loaded, nothing fails, and filters, orders and keys work."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from surgvivqa.explanation.overlay import Overlay, OverlayMap, write_overlays
from surgvivqa.explanation.scene_graphs import Box
from surgvivqa.reporting.report import render_report
from surgvivqa.reporting.results import read_results
from tests.helpers.chromium import NEEDS_CHROMIUM
from tests.helpers.runs_on_disk import make_predictions, write_frames, write_run

pytestmark = NEEDS_CHROMIUM
PREDICTIONS = make_predictions(240)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    write_frames(root / "frames")
    write_run(root / "lora", PREDICTIONS, frames=root / "frames")
    maps = {name: OverlayMap(name, ((0.0, 1.0), (0.5, 0.2))) for name in ("attention", "occlusion")}
    worst = PREDICTIONS[0]
    overlay = Overlay(worst.video, worst.frame, worst.question, maps, (Box(0.1, 0.1, 0.4, 0.4),), ())
    write_overlays(root / "lora" / "eval-test", [overlay])
    (root / "r.html").write_text(render_report([read_results(root / "lora")], pictures=60))
    return root / "r.html"


class Opened:
    """A page with everything that it said and asked for."""

    def __init__(self, browser: Any, path: Path, **context: Any) -> None:
        self.context = browser.new_context(**context)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def matching(self) -> int:
        return int(self.page.locator("[data-count]").inner_text())


@pytest.fixture
def opened(browser: Any, report: Path) -> Iterator[Opened]:
    opened = Opened(browser, report, viewport={"width": 1280, "height": 900})
    yield opened
    opened.context.close()


def test_nothing_is_said_and_nothing_leaves_the_page(opened: Opened, report: Path) -> None:
    opened.page.mouse.wheel(0, 20000)
    opened.page.wait_for_timeout(300)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [report.as_uri()]


def test_the_policy_stops_requests_and_scripts_of_others(opened: Opened) -> None:
    opened.page.evaluate(
        "() => { const i = new Image(); i.src = 'http://127.0.0.1:9/x.png'; document.body.append(i); }"
    )
    opened.page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; "
        "document.body.append(s); }"
    )
    opened.page.wait_for_timeout(200)
    assert opened.page.evaluate("window.ran === undefined")
    assert len([line for line in opened.said if "Content Security Policy" in line]) >= 2


def test_filters_show_what_they_say(opened: Opened) -> None:
    assert (opened.matching(), opened.count(".cards > li:visible")) == (60, 24)
    wrong, right = (opened.count(f'.cards > li[data-outcome="{outcome}"]') for outcome in ("wrong", "right"))
    opened.page.get_by_text("wrong", exact=True).first.click()
    assert opened.matching() == wrong and wrong + right == 60
    opened.page.select_option('[data-filter="video"]', "VID22")
    assert opened.matching() == opened.count('.cards > li[data-outcome="wrong"][data-video="VID22"]')
    opened.page.get_by_text("all", exact=True).first.click()
    opened.page.select_option('[data-filter="video"]', "")
    opened.page.fill('[data-filter="text"]', "script ALERT")
    assert opened.matching() == 1 == opened.count(".cards > li:visible")


def test_labels_and_types_filter(opened: Opened) -> None:
    opened.page.select_option('[data-filter="type"]', "count")
    assert opened.matching() == opened.count('.cards > li[data-type="count"]') > 0
    opened.page.select_option('[data-filter="type"]', "")
    label = opened.page.locator('[data-filter="labels"] option').nth(3).inner_text()
    opened.page.select_option('[data-filter="labels"]', label)
    assert opened.matching() == opened.count(f'.cards > li[data-labels~="{label}"]') > 0


def test_more_are_shown_on_request(opened: Opened) -> None:
    opened.page.locator("[data-more]").click()
    assert opened.count(".cards > li:visible") == 48
    opened.page.locator("[data-more]").click()
    assert opened.count(".cards > li:visible") == 60 and not opened.page.locator("[data-more]").is_visible()


def test_the_order_changes(opened: Opened) -> None:
    first = opened.page.locator(".cards > li").first
    assert "script" in str(first.get_attribute("data-text"))
    opened.page.select_option("[data-order]", "video")
    videos = [card.get_attribute("data-video") for card in opened.page.locator(".cards > li").all()]
    assert videos == sorted(str(video) for video in videos)


def test_arrow_keys_move_through_the_gallery(opened: Opened) -> None:
    opened.page.locator(".cards > li").first.focus()
    for key, expected in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", 23), ("Home", 0)):
        opened.page.keyboard.press(key)
        assert (
            opened.page.evaluate("[...document.querySelector('.cards').children].indexOf(document.activeElement)")
            == expected
        )


def test_maps_are_shown_and_hidden(opened: Opened) -> None:
    shown = opened.page.locator(".heat-map:not([hidden])").first
    assert not shown.is_visible()
    opened.page.locator("[data-overlay]").click()
    assert shown.is_visible() and shown.get_attribute("data-method") == "occlusion"
    opened.page.select_option("select[data-map]", "attention")
    assert opened.page.locator(".heat-map:not([hidden])").first.get_attribute("data-method") == "attention"
    opened.page.locator("[data-overlay]").click()
    assert not opened.page.locator(".heat-map:not([hidden])").first.is_visible()


def test_tables_sort_by_a_column(opened: Opened) -> None:
    heads = opened.page.locator("table.labels thead th")
    names = [head.inner_text() for head in heads.all()]
    column = next(at for at, name in enumerate(names) if name.startswith("Recall"))

    def values() -> list[float]:
        cells = opened.page.locator(f"table.labels tbody tr td:nth-child({column + 1})").all()
        return [float(str(cell.get_attribute("data-value"))) for cell in cells]

    heads.nth(column).locator("button").click()
    assert heads.nth(column).get_attribute("aria-sort") == "descending" and values() == sorted(values(), reverse=True)
    heads.nth(column).locator("button").click()
    assert heads.nth(column).get_attribute("aria-sort") == "ascending" and values() == sorted(values())


def test_the_confusion_matrix_sorts_and_tells_its_cells(opened: Opened) -> None:
    opened.page.emulate_media(reduced_motion="reduce")  # else the page is still scrolling where the pointer moves
    opened.page.locator(".confusion").focus()
    opened.page.keyboard.press("ArrowDown")
    grouped = opened.page.locator(".readout").inner_text()
    opened.page.select_option(".confusion-box select", "alphabet")
    opened.page.locator(".confusion").focus()
    for key in ("ArrowUp", "ArrowUp"):
        opened.page.keyboard.press(key)
    assert grouped.startswith("False: ") and opened.page.locator(".readout").inner_text().startswith("0: ")
    box = opened.page.locator(".confusion .ground").bounding_box()
    opened.page.mouse.move(box["x"] + 2, box["y"] + 2)
    assert opened.page.locator(".readout").inner_text().startswith("0: ")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction(browser: Any, report: Path, scheme: str) -> None:
    opened = Opened(browser, report, viewport={"width": 375, "height": 812}, color_scheme=scheme)
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 375
    assert opened.said == []
    opened.context.close()


def test_texts_of_charts_follow_dark_mode(browser: Any, report: Path) -> None:
    colours = []
    for scheme in ("light", "dark"):
        opened = Opened(browser, report, color_scheme=scheme)
        colours.append(opened.page.evaluate("getComputedStyle(document.querySelector('figure.chart svg text')).fill"))
        opened.context.close()
    assert colours[0] != colours[1]


def test_it_can_be_read_without_javascript(browser: Any, report: Path) -> None:
    opened = Opened(browser, report, java_script_enabled=False)
    assert opened.count(".cards > li:visible") == 60 and opened.count(".controls:visible") == 0
    assert opened.count(".confusion .cell:visible") > 100
    opened.context.close()


def test_paper_has_no_controls_and_a_shorter_gallery(opened: Opened) -> None:
    opened.page.emulate_media(media="print")
    assert opened.count(".controls:visible") == 0 and opened.count(".contents:visible") == 0
    assert 0 < opened.count(".cards > li:visible") <= 12


def test_the_whole_test_split_stays_below_five_megabytes(tmp_path: Path) -> None:
    write_frames(tmp_path / "frames", frames=60, videos=("VID02", "VID22"))
    predictions = make_predictions(90_000, frames=60, videos=("VID02", "VID22"))
    write_run(tmp_path / "run", predictions, frames=tmp_path / "frames")
    started = time.monotonic()
    page = render_report([read_results(tmp_path / "run")])
    assert len(page.encode()) < 5_000_000 and page.count('class="picture"') == 120
    print(f"{time.monotonic() - started:.1f} s, {len(page.encode()) / 1e6:.2f} MB")
