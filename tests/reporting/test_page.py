"""Self-contained pages."""

import base64
import hashlib
import re

from surgvivqa.reporting.page import Entry, along, between, breakable, heat_step, percent, render_page


def page(**context: object) -> str:
    given = {"title": "A <b>run</b>", "overline": "report", **context}
    return render_page("base.html", **given)  # type: ignore[arg-type]


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
    assert "<h1>A &lt;b&gt;run&lt;/b&gt;</h1>" in page()


def test_tokens_are_masked() -> None:
    assert "hf_***" in page(byline=["hf_abcDEF123456789"])


def test_fractions_become_percentages() -> None:
    assert (percent(0.7328), percent(None), percent(-0.0001)) == ("73.3", "–", "0.0")
    assert between((0.671, 0.794)) == "67.1 to 79.4"
    assert (along(0.5), along(0.3, 0.2, 0.4), along(2.0), along(-1.0)) == (50, 50, 100, 0)


def test_a_fall_of_the_accuracy_becomes_a_shade() -> None:
    assert [heat_step(value) for value in (None, -0.2, 0.0, 0.05, 0.3, 0.9)] == [0, 0, 0, 1, 6, 6]


def test_a_label_may_be_broken_after_an_underscore_and_is_escaped() -> None:
    assert breakable("cystic_<i>") == "cystic_<wbr>&lt;i&gt;"
