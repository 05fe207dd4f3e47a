"""A visitor's file, question and timeline stay within the server's limits; messages name no folder of the server."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from surgvivqa.auto import Answer, SurgViVQA
from surgvivqa.demo.limits import Limits
from surgvivqa.demo.look import Look, Step
from surgvivqa.demo.media import Media
from surgvivqa.demo.visits import Desk, Visit
from surgvivqa.utils.errors import InputError
from surgvivqa.video.writing import write_video


class Echo:
    """Answers each question with the time that it was asked about."""

    def __init__(self) -> None:
        self.model, self.processor = None, None

    def answer(self, source: Any, questions: Any, *, at: Any = None, every: Any = None, top: int = 5) -> list[Answer]:
        moments: Sequence[Any] = at if isinstance(at, list) else [at]
        return [Answer(questions, moment, f"t{moment}", 0.5, ((f"t{moment}", 0.5), ("x", 0.25))) for moment in moments]


@pytest.fixture
def arriving(tmp_path: Path) -> Path:
    (tmp_path / "arriving").mkdir()
    return tmp_path / "arriving"


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    (tmp_path / "visit").mkdir()
    return Visit(tmp_path / "visit")


def make_desk(arriving: Path, **limits: Any) -> Desk:
    return Desk(Echo(), Limits(**limits), arriving)


def make_video(path: Path, seconds: int = 5) -> Path:
    write_video(path, [Image.new("RGB", (64, 48), (40 * second, 0, 0)) for second in range(seconds)])
    return path


def test_a_picture_is_kept_in_memory_only(visit: Visit, arriving: Path) -> None:
    Image.new("RGB", (8, 8)).save(arriving / "a.png")
    media = make_desk(arriving).take_upload(visit, arriving / "a.png", "a.png")
    assert media.frame(0).size == (8, 8) and not media.is_video
    assert [*arriving.iterdir(), *visit.folder.iterdir()] == []


def test_a_video_is_moved_and_replaced_by_the_next_upload(visit: Visit, arriving: Path) -> None:
    desk = make_desk(arriving)
    media = desk.take_upload(visit, make_video(arriving / "a.mp4"), "a.mp4")
    assert media.is_video and abs(media.duration - 5) < 0.1
    assert [path.name for path in visit.folder.iterdir()] == ["upload.mp4"] and list(arriving.iterdir()) == []
    Image.new("RGB", (8, 8)).save(arriving / "b.png")
    desk.take_upload(visit, arriving / "b.png", "b.png")
    assert list(visit.folder.iterdir()) == []


@pytest.mark.parametrize("place", ["/etc/hostname", "../outside.png", "missing.png"])
def test_a_path_that_is_no_upload_is_refused(visit: Visit, arriving: Path, place: str) -> None:
    Image.new("RGB", (8, 8)).save(arriving.parent / "outside.png")
    with pytest.raises(InputError, match="did not arrive"):
        make_desk(arriving).take_upload(visit, arriving / place, "x.png")
    assert (arriving.parent / "outside.png").exists()


def test_a_link_among_the_uploads_is_not_followed(visit: Visit, arriving: Path) -> None:
    Image.new("RGB", (8, 8)).save(arriving.parent / "outside.png")
    (arriving / "link.png").symlink_to(arriving.parent / "outside.png")
    with pytest.raises(InputError, match="did not arrive"):
        make_desk(arriving).take_upload(visit, arriving / "link.png", "link.png")


@pytest.mark.parametrize(
    ("name", "content", "limits", "sentence"),
    [
        ("a.png", b"text", {}, "Frame a.png is not a PNG"),
        ("a.mp4", b"", {}, "a.mp4 is empty; give a video file."),
        ("a.mp4", b"text" * 100, {}, "a.mp4 cannot be read as a video"),
        ("a.txt", b"text" * 100, {}, "a.txt cannot be read as a video"),
        ("a.mp4", None, {"seconds": 3.0}, "a.mp4 is 0:05 long, but at most 0:03 are taken here"),
        ("a.mp4", b"x" * 1_000_001, {"upload_mb": 1}, "a.mp4 is larger than 1 MB"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_removed(
    visit: Visit, arriving: Path, name: str, content: bytes | None, limits: dict[str, Any], sentence: str
) -> None:
    if content is None:
        make_video(arriving / name)
    else:
        (arriving / name).write_bytes(content)
    with pytest.raises(InputError) as raised:
        make_desk(arriving, **limits).take_upload(visit, arriving / name, name)
    assert str(raised.value).startswith(sentence) and str(arriving.parent) not in str(raised.value)
    assert [*arriving.iterdir(), *visit.folder.iterdir()] == [] and visit.media is None


@pytest.mark.parametrize("head", [b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"RIFF0000WEBP"])
def test_a_damaged_picture_with_the_name_of_a_video_is_read_as_a_picture(
    visit: Visit, arriving: Path, head: bytes
) -> None:
    (arriving / "a.mp4").write_bytes(head + b"damaged")
    with pytest.raises(InputError, match=r"Frame a\.mp4"):
        make_desk(arriving).take_upload(visit, arriving / "a.mp4", "a.mp4")


@pytest.mark.parametrize(
    ("question", "sentence"), [("", "Type a question"), ("12 ?", "Type a question"), ("a" * 301, "longer than 300")]
)
def test_a_question_that_cannot_be_used_is_refused(visit: Visit, arriving: Path, question: str, sentence: str) -> None:
    desk = make_desk(arriving)
    desk.take_upload(visit, make_video(arriving / "a.mp4"), "a.mp4")
    with pytest.raises(InputError, match=sentence):
        desk.ask(visit, question, 0.0)


def test_without_a_file_there_is_a_sentence(visit: Visit, arriving: Path) -> None:
    desk = make_desk(arriving)
    with pytest.raises(InputError, match="drop it again"):
        desk.ask(visit, "What?", 0.0)
    Image.new("RGB", (8, 8)).save(arriving / "a.png")
    desk.take_upload(visit, arriving / "a.png", "a.png")
    with pytest.raises(InputError, match="A timeline needs a video"):
        next(desk.ask_along(visit, "What?", 1.0))
    with pytest.raises(InputError, match="Ask a question first"):
        desk.look(visit)


def test_a_timeline_asks_each_moment_once(visit: Visit, arriving: Path) -> None:
    desk = make_desk(arriving)
    desk.take_upload(visit, make_video(arriving / "a.mp4"), "a.mp4")
    *_, (moments, asked, note) = desk.ask_along(visit, "What?", 1.0)
    assert [moment.answer for moment in moments] == ["t0.0", "t1.0", "t2.0", "t3.0", "t4.0"]
    assert (asked, note, moments[0].second) == (5, "", "x")


def test_a_timeline_stops_at_the_time_limit_with_what_it_has(visit: Visit, arriving: Path) -> None:
    desk = make_desk(arriving, request_seconds=0.0)
    desk.take_upload(visit, make_video(arriving / "a.mp4"), "a.mp4")
    *_, (moments, asked, note) = desk.ask_along(visit, "What?", 1.0)
    assert (len(moments), asked, note) == (0, 5, "Stopped after 0 s, the limit; 0 of 5 moments.")


class Dropper(Echo):
    """Answers after the visitor has dropped another file."""

    def __init__(self, visit: Visit) -> None:
        super().__init__()
        self.visit = visit

    def answer(self, source: Any, questions: Any, **options: Any) -> list[Answer]:
        self.visit.media = Media("other", Path("other"), picture=Image.new("RGB", (8, 8)))
        return super().answer(source, questions, **options)


def test_an_answer_about_a_file_that_was_replaced_meanwhile_is_not_shown(visit: Visit, arriving: Path) -> None:
    desk = Desk(Dropper(visit), Limits(), arriving)
    desk.take_upload(visit, make_video(arriving / "a.mp4"), "a.mp4")
    with pytest.raises(InputError, match="Another frame or video"):
        desk.ask(visit, "What?", 0.0)
    assert visit.reply is None
    desk.take_upload(visit, make_video(arriving / "a.mp4"), "a.mp4")
    with pytest.raises(InputError, match="Another frame or video"):
        list(desk.ask_along(visit, "What?", 1.0))


def test_a_timeline_of_a_damaged_video_keeps_what_came_before(visit: Visit, arriving: Path) -> None:
    whole = make_video(arriving / "a.mp4", 40).read_bytes()
    (arriving / "a.mp4").write_bytes(whole[: len(whole) * 3 // 4])
    desk = Desk(SurgViVQA.from_pretrained("tiny"), Limits(), arriving)
    desk.take_upload(visit, arriving / "a.mp4", "a.mp4")
    *_, (moments, asked, note) = desk.ask_along(visit, "What?", 1.0)
    assert 0 < len(moments) < asked == 40 and note.startswith("a.mp4 shows no picture at")


def test_occlusion_reports_progress_and_stops_at_the_time_limit(
    visit: Visit, arriving: Path, synthetic_set: Path
) -> None:
    model = SurgViVQA.from_pretrained("tiny")
    desk = Desk(model, Limits(), arriving)
    desk.take_example(visit, synthetic_set / "frames" / "VID02" / "000001.png", "frame")
    reply = desk.ask(visit, "What is the grasper doing?", 0.0)
    assert reply.at is None and reply.answers[0][1] >= reply.answers[1][1]
    *steps, last = desk.cover(visit)
    assert [step.done for step in steps if isinstance(step, Step)] == list(range(7, 50, 7))
    assert isinstance(last, Look) and last.picture.size == (430, 240) and last.largest_drop > 0
    assert list(Desk(model, Limits(request_seconds=0.0), arriving).cover(visit)) == [None]


def test_the_maps_are_those_of_explain(visit: Visit, arriving: Path, synthetic_set: Path) -> None:
    model, frame = SurgViVQA.from_pretrained("tiny"), synthetic_set / "frames" / "VID02" / "000001.png"
    desk = Desk(model, Limits(), arriving)
    desk.take_example(visit, frame, "frame")
    desk.ask(visit, "What is the grasper doing?", 0.0)
    explanation = model.explain(frame, "What is the grasper doing?")
    (*_, occlusion) = desk.cover(visit)
    assert isinstance(occlusion, Look)
    assert occlusion.largest_drop == pytest.approx(float(explanation.maps["occlusion"].max()), abs=1e-4)
    assert [look.method for look in desk.look(visit)] == ["attention", "gradient_attention"]
