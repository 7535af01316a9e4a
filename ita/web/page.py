"""The page's components and what happens when they are used."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from ita.errors import UserError
from ita.predictor import Predictor
from ita.web.answering import INSTANCES, MODES, SEMANTIC, Answer, KeptImage, Question, answer
from ita.web.downloads import write_downloads
from ita.web.examples import Example
from ita.web.limits import Limits
from ita.web.presets import preset_names, preset_text
from ita.web.views import render_answer, render_error, render_status

STATIC = Path(__file__).parent / "static"
TITLE = "ITA: segment images into your own classes"
SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
SYSTEM_MONO_FONTS = ("ui-monospace", "Menlo", "Consolas", "monospace")
# Questions that wait; more are refused in words.
MAX_WAITING = 32
# Uploads and results are deleted after an hour, which is checked every ten minutes, in seconds.
CLEANING = (600, 3600)
PLACEHOLDER = "red triangle\ngrass, lawn"


def build_page(
    model: Predictor, limits: Limits, examples: Sequence[Example], folder: Path, note: str = ""
) -> gr.Blocks:
    """Build the page, with the first example segmented.

    Args:
        model: the model.
        limits: limits of images and classes.
        examples: images with classes, at least one.
        folder: where files for download are written; Gradio must be allowed to serve it.
        note: a sentence below the title.
    """
    first, _ = answer(model, limits, Question(examples[0].image, examples[0].classes))
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=CLEANING) as page:
        gr.Markdown(f"# {TITLE}\n\n{note}")
        # The features of the visitor's last image. Without an initial value, as that is copied.
        kept = gr.State()
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                question, button = _build_question(examples[0])
                status = gr.HTML(render_status(first), apply_default_css=False, elem_id="status")
                scenes = gr.Dataset(
                    components=[question.image],
                    samples=[[example.image] for example in examples],
                    label="Examples: drawn scenes with their classes",
                    type="index",
                    elem_id="examples",
                )
            with gr.Column(scale=3, min_width=300):
                result, *files = _build_answer(first, folder)
        asking = {
            "fn": _asking(model, limits, folder),
            "inputs": [*question, kept],
            "outputs": [status, result, *files, kept],
            # The device runs one question at a time.
            "concurrency_id": "model",
            "concurrency_limit": 1,
            "show_progress_on": [status, result],
            # Gradio would open the file, before any limit applies.
            "preprocess": False,
            "api_visibility": "private",
        }
        gr.on(
            [
                button.click,
                question.image.upload,
                question.classes.submit,
                question.mode.input,
                question.min_score.release,
            ],
            trigger_mode="always_last",
            **asking,
        )
        scenes.click(
            lambda index: (examples[index].image, examples[index].classes),
            scenes,
            [question.image, question.classes],
            queue=False,
            show_progress="hidden",
            api_visibility="private",
        ).success(**asking)
    page.state_session_capacity = limits.sessions
    return page.queue(max_size=MAX_WAITING)


class _QuestionForm(NamedTuple):
    """The components of a question, in the order of the asking function's arguments."""

    image: gr.Image
    classes: gr.Textbox
    mode: gr.Radio
    min_score: gr.Slider


def _build_question(first: Example) -> tuple[_QuestionForm, gr.Button]:
    image = gr.Image(
        first.image,
        label="Image",
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard"],
        buttons=[],
        height=260,
        elem_id="image",
    )
    classes = gr.Textbox(
        first.classes,
        label="Classes",
        info="One class per line, synonyms separated by commas.",
        lines=6,
        max_lines=12,
        placeholder=PLACEHOLDER,
        elem_id="classes",
    )
    preset = gr.Dropdown(
        preset_names(),
        value=None,
        label="Class list",
        info="Replaces the classes by a list of the toy world or of a benchmark.",
        elem_id="preset",
    )
    mode = gr.Radio(list(MODES), value=SEMANTIC, label="Result", elem_id="mode")
    min_score = gr.Slider(
        0, 1, value=0.5, step=0.05, label="Minimum score", visible=False, elem_id="min_score"
    )
    button = gr.Button("Segment", variant="primary", elem_id="segment")
    # Not input, which Gradio also sends whenever the focus leaves it.
    preset.change(
        preset_text,
        preset,
        classes,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    mode.change(
        lambda chosen: gr.update(visible=chosen == INSTANCES),
        mode,
        min_score,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
    return _QuestionForm(image, classes, mode, min_score), button


def _build_answer(first: Answer, folder: Path) -> tuple[Any, ...]:
    result = gr.HTML(
        render_answer(first),
        apply_default_css=False,
        js_on_load=(STATIC / "answer.js").read_text(encoding="utf-8"),
        elem_id="answer",
    )
    with gr.Row():
        files = [
            gr.DownloadButton(label, value=path, size="sm", min_width=90, elem_id=name)
            for label, (name, path) in zip(
                ("Label map (PNG)", "Overlay (PNG)", "Result (JSON)"),
                write_downloads(first, folder)._asdict().items(),
                strict=True,
            )
        ]
    return result, *files


def _asking(model: Predictor, limits: Limits, folder: Path) -> Callable[..., tuple[Any, ...]]:
    """Return the function from the inputs to the outputs; an error leaves the last answer."""

    def ask(
        image: dict[str, Any] | None,
        classes: str,
        mode: str,
        min_score: float,
        kept: KeptImage | None,
    ) -> tuple[Any, ...]:
        question = Question(image["path"] if image else None, classes, mode, min_score)
        try:
            found, kept = answer(model, limits, question, kept)
            files = write_downloads(found, folder)
        except UserError as error:
            return render_error(error), *(gr.skip(),) * 4, kept
        return render_status(found), render_answer(found), *files, kept

    return ask
