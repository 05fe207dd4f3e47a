"""Self-contained pages."""

import base64
import hashlib
import re

from surgvivqa.reporting.gallery import Answer, Gallery, Item
from surgvivqa.reporting.page import Entry, along, between, percent, render_page

ITEM = Item("VID02", 7, "Is <script>alert(1)</script> there?", "True", [Answer("Model", "False", 0.9)], "wrong")


def page(**context: object) -> str:
    given = {"title": "A <b>run</b>", "overline": "report", "gallery_view": Gallery([ITEM]), **context}
    return render_page("gallery_page.html", **given)  # type: ignore[arg-type]


def test_the_policy_allows_the_pages_own_style_and_script_alone() -> None:
    text = page()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    allowed = policy[1].replace("&#39;", "'")
    for element, name in (("style", "style-src"), ("script", "script-src")):
        content = re.search(rf"<{element}>(.*?)</{element}>", text, flags=re.DOTALL)
        assert content is not None
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{name} 'sha256-{digest}';" in allowed
    assert allowed.startswith("default-src 'none'; img-src data:;")


def test_a_page_names_nothing_to_load() -> None:
    text = page(contents=[Entry("gallery", "Gallery")])
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"|url\(|@import', text) == []


def test_texts_of_others_are_escaped() -> None:
    text = page()
    assert "<script>alert" not in text and "Is &lt;script&gt;alert(1)&lt;/script&gt; there?" in text
    assert "<h1>A &lt;b&gt;run&lt;/b&gt;</h1>" in text


def test_tokens_are_masked() -> None:
    assert "hf_***" in page(byline=["hf_abcDEF123456789"])


def test_fractions_become_percentages() -> None:
    assert (percent(0.7328), percent(None), between((0.671, 0.794))) == ("73.3", "–", "67.1 to 79.4")
    assert (along(0.5), along(0.3, 0.2, 0.4), along(2.0), along(-1.0)) == (50, 50, 100, 0)
