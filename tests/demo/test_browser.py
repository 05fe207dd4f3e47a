"""The page in a browser: upload, scrub, ask, explain, timeline, bad files; no file stays, no other host is asked."""

import base64
import csv
import io
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from surgvivqa.demo.limits import Limits
from surgvivqa.synthetic.render import render
from surgvivqa.synthetic.scene import generate_scene
from surgvivqa.video.writing import write_video
from tests.demo.servers import Running, run_page
from tests.helpers.chromium import NEEDS_CHROMIUM

pytest.importorskip("gradio", reason="Gradio is not installed")
pytest.importorskip("av", reason="PyAV is not installed")
pytestmark = NEEDS_CHROMIUM
QUESTION = "What is the grasper doing?"
SECONDS = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two frames, a video of six seconds, and files that cannot be used."""
    root = tmp_path_factory.mktemp("files")
    for number in (1, 2):
        draw(40 + number, 3).save(root / f"frame{number}.png")
    write_video(root / "clip.mp4", [draw(11, second) for second in range(SECONDS)])
    (root / "text.png").write_text("this is no picture")
    whole = (root / "clip.mp4").read_bytes()
    (root / "cut.mp4").write_bytes(whole[: len(whole) // 8])
    (root / "large.mp4").write_bytes(b"\0" * 3_000_000)
    write_video(root / "long.mp4", [Image.new("RGB", (64, 64))] * 40)
    return root


def draw(video: int, second: int) -> Image.Image:
    return render(generate_scene(3, video, second))[0]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with run_page(tmp_path_factory.mktemp("server"), Limits(upload_mb=2, seconds=30, moments=8)) as running:
        yield running


class Visitor:
    """A visitor's page with everything that it said and asked for."""

    def __init__(self, browser: Any, running: Running, **context: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context})
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self._hear(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(running.url)
        self.see("#frame figcaption", "Drawn clip")

    def _hear(self, line: str) -> None:
        if line != "warning: Method not implemented.":  # what Gradio's own client says at each upload
            self.said.append(line)

    def see(self, selector: str, text: str | re.Pattern[str]) -> str:
        """Waits until a part of the page has a text, and returns all of its text."""
        found = self.page.locator(selector).filter(has_text=text).first
        found.wait_for(timeout=30_000)
        return str(found.inner_text())

    def drop(self, path: Path) -> None:
        self.page.set_input_files("#upload input[type=file]", path)

    def ask(self, question: str) -> list[tuple[str, float]]:
        """Asks by the keyboard, and reads the answers."""
        self.page.fill("#question textarea, #question input", question)
        self.page.keyboard.press("Enter")
        self.see("#answer .sv-question", question)
        return self.answers()

    def answers(self) -> list[tuple[str, float]]:
        names, percents = (
            self.page.locator(f"#answer {part}").all_inner_texts() for part in (".sv-name", ".sv-percent")
        )
        return [(name, float(percent.rstrip("%"))) for name, percent in zip(names, percents, strict=True)]


@pytest.fixture(scope="module")
def shared(browser: Any, running: Running) -> Iterator[Visitor]:
    """A page that most tests use one after another, since loading it takes seconds."""
    visitor = Visitor(browser, running)
    yield visitor
    visitor.context.close()


@pytest.fixture
def visitor(shared: Visitor) -> Visitor:
    """The shared page as it is after loading: the drawn clip is shown, and nothing was asked."""
    # Another example in between: if the clip is shown already, nothing tells when its reply has come.
    for number, caption in ((2, "Drawn frame 2"), (0, "Drawn clip")):
        shared.page.locator("#examples button").nth(number).click()
        shared.see("#frame figcaption", caption)
    shared.see("#answer", "The answer appears here.")
    shared.said.clear()
    shared.asked.clear()
    return shared


def expected(running: Running, source: Any, question: str, at: float | None = None) -> list[tuple[str, float]]:
    (answer,) = running.model.answer(source, question, at=at)
    return [(label.replace("_", " "), round(100 * probability, 1)) for label, probability in answer.top]


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not holds() and time.monotonic() < end:
        time.sleep(0.05)
    return holds()


def test_a_frame_is_uploaded_asked_and_answered_and_its_file_is_gone(
    visitor: Visitor, running: Running, files: Path
) -> None:
    visitor.drop(files / "frame1.png")
    assert visitor.see("#frame figcaption", "frame1.png") == "frame1.png"
    assert running.uploads() == []
    assert not visitor.page.locator("#moment").is_visible() and not visitor.page.locator("#along").is_visible()
    assert visitor.ask(QUESTION) == expected(running, files / "frame1.png", QUESTION)


def test_a_suggested_question_is_asked_by_one_click(visitor: Visitor, running: Running, files: Path) -> None:
    visitor.drop(files / "frame2.png")
    visitor.see("#frame figcaption", "frame2.png")
    visitor.page.get_by_role("button", name="What type is the red object?").click()
    visitor.see("#answer .sv-question", "What type is the red object?")
    assert visitor.page.locator("#question textarea, #question input").input_value() == "What type is the red object?"
    assert visitor.answers() == expected(running, files / "frame2.png", "What type is the red object?")


def test_a_video_is_scrubbed_and_asked_and_goes_with_its_visitor(browser: Any, running: Running, files: Path) -> None:
    visitor = Visitor(browser, running)
    visitor.drop(files / "clip.mp4")
    visitor.see("#frame figcaption", "clip.mp4, 0:00 of 0:06")
    first = visitor.page.locator("#frame img").get_attribute("src")
    visitor.page.locator("#moment input[type=number]").fill("4")
    visitor.page.keyboard.press("Enter")
    visitor.see("#frame figcaption", "0:04 of 0:06")
    assert visitor.page.locator("#frame img").get_attribute("src") != first
    assert visitor.ask(QUESTION) == expected(running, files / "clip.mp4", QUESTION, at=4)
    assert visitor.page.locator("#answer .sv-question").inner_text() == f"{QUESTION} at 0:04"
    assert [path.suffix for path in running.uploads()] == [".mp4"]
    visitor.page.close(run_before_unload=False)
    assert wait_until(lambda: running.uploads() == [])
    visitor.context.close()


def test_the_timeline_is_drawn_read_and_saved(visitor: Visitor, running: Running, files: Path) -> None:
    visitor.drop(files / "clip.mp4")
    visitor.see("#frame figcaption", "clip.mp4")
    visitor.page.fill("#question textarea, #question input", QUESTION)
    visitor.page.click("#start")
    link = visitor.page.locator("#timeline .sv-download")
    link.wait_for(timeout=30_000)
    data = base64.b64decode(str(link.get_attribute("href")).partition(",")[2]).decode()
    rows = list(csv.DictReader(io.StringIO(data)))
    answers = running.model.answer(files / "clip.mp4", QUESTION, every=1)
    assert [(row["seconds"], row["answer"], row["probability"]) for row in rows] == [
        (f"{a.at:g}", a.answer, f"{a.probability:.4f}") for a in answers
    ]
    with visitor.page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "timeline.csv"
    visitor.page.locator("#timeline svg g").nth(3).click()
    assert visitor.see(".sv-readout", "0:03").split()[0] == "0:03"
    visitor.see("#frame figcaption", "0:03 of 0:06")
    visitor.page.locator(".sv-strip").focus()
    visitor.page.keyboard.press("ArrowRight")
    assert answers[4].answer.replace("_", " ") in visitor.see(".sv-readout", "0:04")
    visitor.page.keyboard.press("Enter")
    visitor.see("#frame figcaption", "0:04 of 0:06")


def test_where_the_model_looks_is_shown_on_request(visitor: Visitor, files: Path) -> None:
    visitor.drop(files / "frame1.png")
    visitor.see("#frame figcaption", "frame1.png")
    visitor.ask(QUESTION)
    visitor.page.click("#look")
    visitor.see("#looks", "Gradient-weighted attention")
    assert visitor.page.locator("#looks img").count() == 2
    visitor.page.click("#cover")
    assert "lowers its log-probability by up to" in visitor.see("#looks", "Occlusion:")
    assert visitor.page.locator("#looks img").count() == 3


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("text.png", "Frame text.png is not a PNG, JPEG, BMP, TIFF or WEBP file, or is damaged; drop another file."),
        ("cut.mp4", "cut.mp4 holds no frame that can be decoded"),
        ("long.mp4", "long.mp4 is 0:40 long, but at most 0:30 are taken here; drop a shorter part of it."),
    ],
)
def test_a_bad_file_is_refused_in_one_sentence_and_the_page_goes_on(
    visitor: Visitor, running: Running, files: Path, name: str, sentence: str
) -> None:
    visitor.drop(files / name)
    notice = visitor.see("#notice [role=alert]", sentence)
    assert notice.count(". ") == 0 and notice.endswith(".") and "/" not in notice and "Traceback" not in notice
    assert running.uploads() == []
    visitor.drop(files / "frame1.png")
    visitor.see("#frame figcaption", "frame1.png")
    assert visitor.page.locator("#notice [role=alert]").count() == 0
    assert visitor.ask(QUESTION) == expected(running, files / "frame1.png", QUESTION)
    assert visitor.said == []


def test_a_file_that_is_too_large_is_refused_before_it_is_sent_and_the_page_goes_on(
    visitor: Visitor, running: Running, files: Path
) -> None:
    visitor.drop(files / "large.mp4")
    sentence = "large.mp4 has 3 MB, but at most 2 MB are taken here; drop a shorter or smaller file."
    assert visitor.see("#sv-size", "large.mp4") == sentence
    assert running.uploads() == [] and not [url for url in visitor.asked if "/upload" in url]
    visitor.drop(files / "frame1.png")
    visitor.see("#frame figcaption", "frame1.png")
    assert not visitor.page.locator("#sv-size").is_visible()
    assert visitor.ask(QUESTION) == expected(running, files / "frame1.png", QUESTION)
    assert visitor.said == []


def test_too_many_moments_and_an_empty_question_are_refused(visitor: Visitor) -> None:
    visitor.page.locator("#every input").fill("0.1")
    visitor.page.click("#start")
    visitor.see("#notice", "at most 8 are asked; choose 3 s or more.")
    visitor.page.fill("#question textarea, #question input", "  ")
    visitor.page.click("#ask")
    visitor.see("#notice", "Type a question, or click one of the suggested ones.")


def test_two_visitors_at_once_get_their_own_answers(browser: Any, running: Running, files: Path) -> None:
    visitors = [Visitor(browser, running) for _ in range(2)]
    names = ("frame1.png", "frame2.png")
    for visitor, name in zip(visitors, names, strict=True):
        visitor.drop(files / name)
    for visitor, name in zip(visitors, names, strict=True):
        visitor.see("#frame figcaption", name)
        visitor.page.fill("#question textarea, #question input", QUESTION)
    for visitor in visitors:
        visitor.page.click("#ask", no_wait_after=True)
    found = []
    for visitor, name in zip(visitors, names, strict=True):
        visitor.see("#answer .sv-question", QUESTION)
        found.append(visitor.answers())
        assert found[-1] == expected(running, files / name, QUESTION)
        visitor.context.close()
    assert found[0] != found[1]


def test_the_page_can_be_used_by_keyboard_alone(visitor: Visitor) -> None:
    visitor.page.locator("#examples button").nth(1).focus()
    visitor.page.keyboard.press("Enter")
    visitor.see("#frame figcaption", "Drawn frame 1")
    visitor.page.locator("#question textarea, #question input").focus()
    visitor.page.keyboard.press("Tab")
    assert visitor.page.evaluate("document.activeElement.id") == "ask"
    visitor.page.keyboard.press("Tab")
    assert visitor.page.evaluate("document.activeElement.innerText") == "How many instruments are there?"
    visitor.page.keyboard.press("Space")
    visitor.see("#answer .sv-question", "How many instruments are there?")


def test_nothing_is_said_and_nothing_is_asked_of_other_hosts(browser: Any, running: Running, files: Path) -> None:
    visitor = Visitor(browser, running)
    visitor.drop(files / "clip.mp4")
    visitor.see("#frame figcaption", "clip.mp4")
    visitor.ask(QUESTION)
    visitor.page.click("#start")
    visitor.page.locator("#timeline .sv-download").wait_for(timeout=30_000)
    foreign = [url for url in visitor.asked if not url.startswith((running.url, "data:", "blob:"))]
    assert (visitor.said, foreign) == ([], [])
    visitor.context.close()


def test_every_control_has_a_name(visitor: Visitor) -> None:
    tree = visitor.page.locator("body").aria_snapshot()
    controls = re.findall(r"- (button|textbox|slider|spinbutton|link|combobox)([^\n]*)", tree)
    assert len(controls) > 15 and [kind for kind, rest in controls if not rest.strip(" :").startswith('"')] == []
    assert visitor.page.locator("img:not([alt])").count() == 0


def test_the_page_says_what_it_is_not_for_and_which_model_it_has(visitor: Visitor) -> None:
    text = visitor.page.locator("#head").inner_text()
    assert "For research, not for clinical use." in text and "tiny, the packaged base" in text
    assert "Trained on drawn scenes only" in text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_and_dark_mode_is_dark(browser: Any, running: Running, scheme: str) -> None:
    visitor = Visitor(browser, running, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    visitor.ask(QUESTION)
    assert visitor.page.evaluate("document.documentElement.scrollWidth") == 390
    colour = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(re.findall(r"\d+", colour)[0])
    assert red < 60 if scheme == "dark" else red > 200
    tops = [visitor.page.locator(part).bounding_box()["y"] for part in ("#frame", "#question", "#answer", "#suggested")]
    assert tops == sorted(tops)
    visitor.context.close()
