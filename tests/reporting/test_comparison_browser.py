"""The page of a comparison in a browser: nothing is loaded, nothing fails, the gallery's filters work."""

from pathlib import Path
from typing import Any

import pytest

from surgvivqa.reporting.comparison import compare_runs
from surgvivqa.reporting.comparison_page import render_comparison
from surgvivqa.reporting.results import read_results
from tests.helpers.chromium import NEEDS_CHROMIUM
from tests.helpers.evaluations import answer_questions, write_evaluation

pytestmark = NEEDS_CHROMIUM


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("comparison")
    for name, hits in (("a", "11100"), ("b", "00010")):
        write_evaluation(root / name, answer_questions(dict.fromkeys(("VID02", "VID22"), hits)))
    comparison = compare_runs([read_results(root / name) for name in "ab"])
    (root / "c.html").write_text(render_comparison(comparison, None, 60))
    return root / "c.html"


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_works_without_a_network_at_any_width(browser: Any, page_file: Path, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 900})
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    assert said == [] and [url for url in asked if not url.startswith("data:")] == [page_file.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    count = page.locator("#disagreements [data-count]")
    assert count.inner_text() == "8"
    page.locator("#disagreements .choices label", has_text="only a right").click()
    assert count.inner_text() == "6"
    page.close()
