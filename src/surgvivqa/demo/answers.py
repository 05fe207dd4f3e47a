"""The parts of the page that are written anew for each request: frame, answers, pictures of where the model looks."""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

from PIL import Image

from surgvivqa.demo.examples import Example
from surgvivqa.demo.look import Look
from surgvivqa.demo.timeline import show_label
from surgvivqa.video.times import format_time

_WIDTH = 960  # of the largest picture that is sent, px
_NOTES = {
    "attention": "where the last word of the question reads",
    "gradient_attention": "the reading that raises this answer's score",
    "occlusion": "what the answer depends on: covering it lowers its log-probability by up to {drop:.2f}",
}


def write_notice(sentence: str = "", *, is_error: bool = True) -> str:
    """One sentence to the visitor; empty to take the last one away."""
    if not sentence:
        return ""
    kind, role = ("sv-error", "alert") if is_error else ("sv-info", "status")
    return f'<p class="sv-notice {kind}" role="{role}">{escape(sentence)}</p>'


def write_frame(picture: Image.Image, name: str, at: float | None, duration: float) -> str:
    """The frame in question with its name and time."""
    time = "" if at is None else f", {format_time(round(at, 1))} of {format_time(round(duration, 1))}"
    words = f"{name}{time}"
    return (
        f'<figure class="sv-frame"><img src="{encode_picture(picture)}" alt="Frame of {escape(words, quote=True)}">'
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def write_answers(
    question: str, at: float | None, answers: Sequence[tuple[str, float]], count: int, temperature: float
) -> str:
    """The best answers with bars.

    Args:
        question: the question.
        at: seconds; None for a picture.
        answers: label and probability, best first.
        count: number of labels that the model chooses from.
        temperature: at which the probabilities are.
    """
    when = "" if at is None else f" <span>at {format_time(round(at, 1))}</span>"
    rows = "".join(
        f'<li><span class="sv-name">{escape(show_label(label))}</span>'
        f'<span class="sv-bar" aria-hidden="true"><span style="width:{100 * p:.1f}%"></span></span>'
        f'<span class="sv-percent">{100 * p:.1f}%</span></li>'
        for label, p in answers
    )
    best, probability = answers[0]
    calibrated = "" if temperature == 1 else f", at the fitted temperature {temperature:.2f}"
    return (
        f'<div class="sv-answers" role="region" aria-label="Answer" aria-live="polite">'
        f'<p class="sv-question">{escape(question)}{when}</p>'
        f'<p class="sv-best">{escape(show_label(best))} <small>{100 * probability:.0f}%</small></p>'
        f'<ol class="sv-bars" aria-label="Most probable answers">{rows}</ol>'
        f'<p class="sv-note">Probabilities among the {count} answers that the model knows{calibrated}.</p></div>'
    )


def write_looks(looks: Sequence[Look], answer: str, progress: tuple[int, int] | None = None, note: str = "") -> str:
    """Pictures of where the model looks, with the progress of a map that is being computed."""
    parts = ['<div class="sv-looks">']
    if progress:
        done, total = progress
        parts.append(
            f'<p class="sv-progress"><progress max="{total}" value="{done}" aria-label="Windows covered"></progress> '
            f"{done} of {total} windows covered</p>"
        )
    if note:
        parts.append(f'<p class="sv-note" role="status">{escape(note)}</p>')
    for look in looks:
        words = _NOTES[look.method].format(drop=look.largest_drop)
        parts.append(
            f'<figure><img src="{encode_picture(look.picture, 640)}" alt="{escape(look.title.capitalize())} over the '
            f'frame, for the answer {escape(show_label(answer), quote=True)}"><figcaption><b>'
            f"{escape(look.title.capitalize())}</b>: {escape(words)}.</figcaption></figure>"
        )
    if looks:
        parts.append(
            '<p class="sv-note">Yellow is most, dark blue least, each picture on its own scale. Attention may not '
            "matter for the answer; only occlusion shows what does.</p>"
        )
    return "".join([*parts, "</div>"])


def write_examples_row(examples: Sequence[Example]) -> str:
    """Buttons with the examples' pictures."""
    buttons = []
    for number, example in enumerate(examples):
        with Image.open(example.picture) as picture:
            source = encode_picture(picture, 160)
        buttons.append(
            f'<button type="button" data-pick="{number}"><img src="{source}" alt="">{escape(example.title)}</button>'
        )
    return f'<div class="sv-examples" role="group" aria-label="Examples">{"".join(buttons)}</div>'


def write_questions(questions: Mapping[str, Sequence[str]]) -> str:
    """Buttons with suggested questions, by type."""
    rows = []
    for kind, group in questions.items():
        buttons = "".join(
            f'<button type="button" data-question="{escape(question, quote=True)}">{escape(question)}</button>'
            for question in group
        )
        rows.append(f'<b>{escape(kind)}</b><div role="group" aria-label="{escape(kind, quote=True)}">{buttons}</div>')
    return f'<div class="sv-questions">{"".join(rows)}</div>'


def encode_picture(picture: Image.Image, width: int = _WIDTH) -> str:
    """A picture as a ``data:`` address (JPEG), so that no file of it is left on the server."""
    small = picture.convert("RGB")
    if small.width > width:
        small = small.resize((width, max(1, round(small.height * width / small.width))), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
