"""The page: its parts, and what happens when a visitor uses them.

Handlers get the visitor's session first, then the values of their inputs, and return new values by part. A wrapper
around each turns an expected error into one sentence on the page, and any other error into a line of the server's log.
"""

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from surgvivqa.demo.answers import (
    write_answers,
    write_examples_row,
    write_frame,
    write_looks,
    write_notice,
    write_questions,
)
from surgvivqa.demo.examples import Example
from surgvivqa.demo.look import Look, Step
from surgvivqa.demo.media import Media
from surgvivqa.demo.timeline import draw_timeline
from surgvivqa.demo.uploads import Sessions
from surgvivqa.demo.visits import Desk, LoadedModel, Visit
from surgvivqa.utils.errors import SurgViVQAError, one_line

log = logging.getLogger("surgvivqa")
_HERE = Path(__file__).parent
_FILES = ["image", "video", ".mkv", ".avi", ".mov", ".mp4", ".m4v", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".tif"]
_EMPTY_ANSWER = '<p class="sv-empty">The answer appears here.</p>'
Values = Mapping[str, Any]


class Page:
    """The page of one server.

    Args:
        gr: the module ``gradio``.
        desk: answers.
        sessions: the visitors.
        loaded: the model and what the page says about it.
        examples: the examples.
    """

    def __init__(
        self,
        gr: Any,
        desk: Desk,
        sessions: Sessions[Visit],
        loaded: LoadedModel,
        examples: Sequence[Example],
    ) -> None:
        self.gr, self.desk, self.sessions, self.examples = gr, desk, sessions, examples
        self.facts, self.questions = loaded.facts, loaded.questions
        self.labels, self.temperature = loaded.labels, loaded.temperature
        self.parts: dict[str, Any] = {}

    def build(self) -> Any:
        """The page as ``gradio.Blocks``, with its queue."""
        gr = self.gr
        script = (_HERE / "page.js").read_text(encoding="utf-8")
        with gr.Blocks(title="Ask a surgical video", analytics_enabled=False) as blocks:
            gr.HTML(self._head(), elem_id="head", js_on_load=None)
            notice = gr.HTML("", elem_id="notice", js_on_load=None)
            with gr.Row(equal_height=False, elem_id="columns"):
                with gr.Column(scale=1, min_width=320):
                    upload = gr.File(
                        label=f"Drop a frame or a video (at most {self.desk.limits.upload_mb} MB)",
                        file_types=_FILES,
                        height=96,
                        elem_id="upload",
                    )
                    examples = gr.HTML(write_examples_row(self.examples), elem_id="examples", js_on_load=script)
                    frame = gr.HTML("", elem_id="frame", js_on_load=None)
                    moment = gr.Slider(
                        0, 1, value=0, step=0.1, label="Moment (seconds)", visible=False, buttons=[], elem_id="moment"
                    )
                    with gr.Column(visible=False, elem_id="along") as along:
                        with gr.Row(equal_height=False, elem_classes="sv-line"):
                            every = gr.Number(
                                1, label="Every (s)", minimum=0.1, step=0.5, min_width=120, elem_id="every"
                            )
                            start = gr.Button("Ask along the video", scale=2, min_width=160, elem_id="start")
                            stop = gr.Button("Stop", min_width=70, elem_id="stop")
                        timeline = gr.HTML("", elem_id="timeline", js_on_load=script)
                with gr.Column(scale=1, min_width=320):
                    with gr.Row(equal_height=False, elem_classes="sv-line", elem_id="asking"):
                        question = gr.Textbox(
                            next(iter(next(iter(self.questions.values()), ())), ""),
                            label="Question",
                            max_length=self.desk.limits.question_length,
                            scale=4,
                            min_width=180,
                            elem_id="question",
                            html_attributes=gr.InputHTMLAttributes(enterkeyhint="send", autocomplete="off"),
                        )
                        ask = gr.Button("Ask", variant="primary", scale=1, min_width=80, elem_id="ask")
                    suggested = gr.HTML(write_questions(self.questions), elem_id="suggested", js_on_load=script)
                    answer = gr.HTML(_EMPTY_ANSWER, elem_id="answer", container=True, padding=True, js_on_load=None)
                    with gr.Row(visible=False, elem_id="explain") as explain:
                        look = gr.Button("Where did it look?", size="sm", min_width=140, elem_id="look")
                        cover = gr.Button("What does it depend on? (slow)", size="sm", min_width=140, elem_id="cover")
                    looks = gr.HTML("", elem_id="looks", js_on_load=None)
            gr.HTML(_foot(self.desk.limits.keep_minutes), js_on_load=None)
            self.parts = {
                "notice": notice, "frame": frame, "moment": moment, "upload": upload, "question": question,
                "answer": answer, "explain": explain, "looks": looks, "along": along, "timeline": timeline,
                "every": every,
            }  # fmt: skip
            model: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}
            quick: dict[str, Any] = {"concurrency_id": "decode", "concurrency_limit": 4}
            quiet: dict[str, Any] = {"show_progress": "hidden"}
            media = ["notice", "frame", "moment", "upload", "answer", "explain", "looks", "along", "timeline", "every"]
            reply = ["notice", "question", "answer", "explain", "looks"]
            # Without preprocessing, the handler gets what the browser says about the upload, and checks it itself.
            self._on(upload.upload, self._upload, [upload], media, preprocess=False, **quick, **quiet)
            self._on(examples.select, self._example, [], media, data=True, **quick, **quiet)
            self._on(blocks.load, self._first, [], media, **quick, **quiet)
            self._on(
                moment.change, self._show, [moment], ["notice", "frame"], trigger_mode="always_last", **quick, **quiet
            )
            for event in (ask.click, question.submit):
                self._on(event, self._ask, [question, moment], reply, show_progress_on=[answer], **model)
            self._on(
                suggested.select,
                self._ask_suggested,
                [moment],
                reply,
                data=True,
                show_progress_on=[answer],
                scroll_to_output=True,
                **model,
            )
            self._on(look.click, self._look, [], ["notice", "looks"], show_progress_on=[looks], **model)
            covering = self._on(cover.click, self._cover, [], ["notice", "looks"], **model, **quiet)
            asking = self._on(start.click, self._along, [question, every], ["notice", "timeline"], **model, **quiet)
            self._on(timeline.select, self._jump, [], ["notice", "moment"], data=True, **quick, **quiet)
            stop.click(None, cancels=[asking, covering], api_visibility="private")
            blocks.unload(self._with_request(self._leave))
        # Without a direct route to the handlers, every request waits its turn in the queue.
        return blocks.queue(max_size=self.desk.limits.queue, default_concurrency_limit=4, api_open=False)

    def theme(self) -> Any:
        """A theme whose fonts are on every machine; Gradio's own would be loaded from the web."""
        fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "DejaVu Sans", "sans-serif"]
        themes = self.gr.themes
        return themes.Base(
            primary_hue="blue",
            neutral_hue="zinc",
            font=[themes.Font(name) for name in fonts],
            font_mono=[themes.Font(name) for name in ("ui-monospace", "DejaVu Sans Mono", "monospace")],
        ).set(
            # Gradio's grey of secondary text is too faint on white.
            body_text_color_subdued="*neutral_600",
            body_text_color_subdued_dark="*neutral_300",
            block_info_text_color="*neutral_600",
            block_info_text_color_dark="*neutral_300",
            button_primary_background_fill="*primary_600",
            button_primary_background_fill_hover="*primary_700",
        )

    def style(self) -> str:
        """The page's own style sheet."""
        return (_HERE / "page.css").read_text(encoding="utf-8")

    def script(self) -> str:
        """The page's own script, for the document's head."""
        return f"<script>{(_HERE / 'upload_size.js').read_text(encoding='utf-8')}</script>"

    def _head(self) -> str:
        warnings = "".join(f'<p class="sv-warning" role="note">{escape(text)}</p>' for text in self.facts.warnings)
        most = self.desk.limits.upload_mb * 1_000_000
        return (
            '<header><div class="sv-head"><h1>Ask a surgical video</h1>'
            "<p>Choose a moment, ask, see the answer. For research, not for clinical use.</p></div>"
            f'<p class="sv-model">Model: <b>{escape(self.facts.name)}</b> (SurgViVQA, {self.labels} answers). '
            f"Trained on: <b>{escape(self.facts.trained_on)}</b>.</p>{warnings}"
            f'<p id="sv-size" class="sv-notice sv-error" role="alert" data-most="{most}" '
            "hidden></p></header>"
        )

    # Handlers. Each returns or yields new values by part.

    def _upload(self, visit: Visit, payload: Any) -> Values:
        if not isinstance(payload, dict) or not isinstance(payload.get("path"), str):
            return {}
        path = Path(payload["path"])
        name = one_line(str(payload.get("orig_name") or path.name))[:80]
        return self._media(self.desk.take_upload(visit, path, name))

    def _example(self, visit: Visit, data: Mapping[str, Any]) -> Values:
        example = self.examples[int(data["pick"])]
        return self._media(self.desk.take_example(visit, example.path, example.title))

    def _first(self, visit: Visit) -> Values:
        return self._media(self.desk.take_example(visit, self.examples[0].path, self.examples[0].title))

    def _media(self, media: Media) -> Values:
        gr, duration = self.gr, media.duration
        every = max(1.0, round(duration / self.desk.limits.moments + 0.05, 1))
        return {
            "frame": write_frame(media.frame(0.0), media.name, 0.0 if media.is_video else None, duration),
            "moment": gr.update(value=0, maximum=max(duration, 0.1), visible=media.is_video),
            "upload": None,
            "answer": _EMPTY_ANSWER,
            "explain": gr.update(visible=False),
            "looks": "",
            "along": gr.update(visible=media.is_video),
            "every": every if every > 1 else 1,
            "timeline": "",
        }

    def _show(self, visit: Visit, at: float) -> Values:
        media = visit.require_media()
        if not media.is_video:
            return {}
        return {"frame": write_frame(media.frame(at), media.name, at, media.duration)}

    def _ask(self, visit: Visit, question: str, at: float) -> Values:
        reply = self.desk.ask(visit, question, at)
        written = write_answers(reply.question, reply.at, reply.answers, self.labels, self.temperature)
        return {"answer": written, "explain": self.gr.update(visible=True), "looks": ""}

    def _ask_suggested(self, visit: Visit, data: Mapping[str, Any], at: float) -> Values:
        question = str(data["question"])
        return {"question": question, **self._ask(visit, question, at)}

    def _look(self, visit: Visit) -> Values:
        looks = self.desk.look(visit)
        return {"looks": write_looks(looks, _answer_of(visit))}

    def _cover(self, visit: Visit) -> Iterator[Values]:
        answer, looks = _answer_of(visit), self.desk.look(visit)
        for step in self.desk.cover(visit):
            if isinstance(step, Step):
                yield {"looks": write_looks(looks, answer, (step.done, step.total))}
            elif isinstance(step, Look):
                yield {"looks": write_looks([*looks, step], answer)}
            else:
                limit = f"Occlusion was stopped after {self.desk.limits.request_seconds:g} s, the limit of this server."
                yield {"looks": write_looks(looks, answer, note=limit)}

    def _along(self, visit: Visit, question: str, every: float | None) -> Iterator[Values]:
        for moments, asked, note in self.desk.ask_along(visit, question, float(every or 0)):
            yield {"timeline": draw_timeline(" ".join(question.split()), moments, asked, note)}

    def _jump(self, visit: Visit, data: Mapping[str, Any]) -> Values:
        return {"moment": float(data["at"])}

    def _leave(self, request: Any) -> None:
        self.sessions.drop(str(request.session_hash))

    # Wrappers around the handlers.

    def _on(
        self,
        event: Callable[..., Any],
        handler: Callable[..., Any],
        inputs: list[Any],
        outputs: list[str],
        *,
        data: bool = False,
        **options: Any,
    ) -> Any:
        wrapped = self._guard(handler, data)
        parts = [self.parts[name] for name in outputs]
        return event(wrapped, inputs, parts, api_visibility="private", **options)

    def _guard(self, handler: Callable[..., Any], data: bool) -> Callable[..., Any]:
        """Wraps a handler for Gradio, which passes the request and what was chosen by the parameters' types."""

        def call(request: Any, values: Sequence[Any]) -> Any:
            visit = self.sessions.get(str(request.session_hash))
            if not data:
                return handler(visit, *values)
            chosen, *rest = values
            return handler(visit, getattr(chosen, "_data", None) or {}, *rest)

        def finish(values: Values) -> dict[Any, Any]:
            return {self.parts[name]: value for name, value in {"notice": "", **values}.items()}

        def fail(error: Exception) -> dict[Any, Any]:
            if isinstance(error, SurgViVQAError):
                sentence = one_line(error.sentence)
            else:
                log.error("A request failed.", exc_info=error)
                sentence = "This could not be done; the server's log says why. Try another frame or question."
            # The drop zone is emptied, so that the next file can be dropped.
            cleared = {"upload": None} if handler == self._upload else {}
            return finish({"notice": write_notice(sentence), **cleared})

        if inspect.isgeneratorfunction(handler):

            def run_steps(request: Any, *values: Any) -> Iterator[dict[Any, Any]]:
                try:
                    for step in call(request, values):
                        yield finish(step)
                except Exception as error:
                    yield fail(error)

            return self._with_request(run_steps)

        if data:

            def run_chosen(request: Any, chosen: Any, *values: Any) -> dict[Any, Any]:
                try:
                    return finish(call(request, (chosen, *values)))
                except Exception as error:
                    return fail(error)

            run_chosen.__annotations__["chosen"] = self.gr.EventData
            return self._with_request(run_chosen)

        def run(request: Any, *values: Any) -> dict[Any, Any]:
            try:
                return finish(call(request, values))
            except Exception as error:
                return fail(error)

        return self._with_request(run)

    def _with_request(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Marks the parameter ``request``, which Gradio finds by its type."""
        if inspect.ismethod(function):
            method = function

            def leave(request: Any) -> None:
                method(request)

            function = leave
        function.__annotations__["request"] = self.gr.Request
        return function


def _answer_of(visit: Visit) -> str:
    return visit.reply.answers[0][0] if visit.reply else ""


def _foot(keep_minutes: float) -> str:
    return (
        f'<footer><p class="sv-foot">Uploads stay on this server: a picture is only held in memory, a video until you '
        f"close this page or leave it unused for {keep_minutes:g} minutes. Nothing is sent to other servers. "
        f"The examples are drawings. Answers are guesses of a model; check them.</p></footer>"
    )
