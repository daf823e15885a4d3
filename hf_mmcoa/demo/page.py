"""The gradio page: its inputs, its layout, and the place in which it shows the HTML of `panels`.

This is the only module that imports gradio, and only when a page is built. Nothing on the page is loaded from another
server: it uses system fonts, no analytics and no share link, and pictures are inside the HTML.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import nn

from ..data.labels import read_labels
from ..data.prompts import clean_class_name
from ..data.rows import ImageRows
from ..evaluation.threat_model import ThreatModel
from ..report.conditions import fraction
from ..report.gallery import to_picture
from ..report.picture import SHARP_BELOW
from ..substitutes.source import CandidateSource
from .inputs import MAX_BYTES, MAX_CLASSES, parse_class_names, read_picture
from .panels import STYLE, comparison_html, message_html
from .side_by_side import ATTACKS, attack_and_compare

if TYPE_CHECKING:
    import gradio as gr

TITLE = "hf_mmcoa: attack it yourself"
EXPLANATION = (
    "An attacker changes the picture or a word of the prompts, within a budget, until CLIP predicts the wrong class. "
    "Each model is attacked separately, by an attacker who knows all its weights."
)
NO_CLASS = "the class that each model predicts"
EXAMPLES = 10
THUMBNAIL = 96  # pixels a side
CSS = f"""{STYLE}
.gradio-container {{ max-width: 1280px !important; }}
#title .html-container, #result .html-container {{ padding: 0; }}
#title h1 {{ font-size: 24px; margin: 4px 0; font-weight: 700; color: var(--body-text-color); }}
#title p {{ margin: 0; color: var(--body-text-color-subdued); font-size: 15px; max-width: 860px; }}
#examples .grid-wrap {{ height: auto; min-height: 0; max-height: none; padding: 0; overflow: visible; }}
#examples .grid-container {{ grid-template-columns: repeat(5, minmax(0, 1fr)); grid-auto-rows: auto;
  gap: 6px; padding: 2px; }}
#examples .gallery-item {{ height: auto; }}
#examples .thumbnail-item {{ width: 100%; height: auto; aspect-ratio: 1; }}
#examples img {{ image-rendering: pixelated; }}
#examples .caption-label {{ display: none; }}
"""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The contents of a page.

    Args:
        models: name -> (model, its processor), shown side by side in this order.
        dataset: labelled pictures to pick from.
        class_names: class names by label.
        budget: the attack budget that the page starts with; its template is that of every prompt.
        sources: candidate substitutes of words, by name, to choose from; if empty, the budget's candidates are used.
        note: a sentence about the models, shown below the explanation.
    """

    models: Mapping[str, tuple[nn.Module, Any]]
    dataset: Any
    class_names: Sequence[str]
    budget: ThreatModel
    sources: Mapping[str, CandidateSource] = field(default_factory=dict)
    note: str = ""


def build_page(setup: Setup) -> gr.Blocks:
    """Return the page; `launch` serves it."""
    import gradio as gr

    examples = _examples(setup)
    names = list(setup.class_names) if len(setup.class_names) <= MAX_CLASSES else [name for _, name in examples]
    names = list(dict.fromkeys(name.replace(",", " ") for name in names))
    epsilon, size = setup.budget.pixel_radius, examples[0][0].size

    def show(picture: Image.Image, text: str, truth: str, attack: str, *settings: Any) -> str:
        try:
            return comparison_html(_compare(setup, picture, text, truth, attack, *settings))
        except (ValueError, TypeError, OSError, ImportError) as error:
            return message_html(str(error))

    def look(picture: Image.Image, text: str, truth: str) -> str:
        """Show the predictions on the picture without an attack."""
        return show(picture, text, truth, "none")

    def pick(event: gr.SelectData, text: str) -> tuple[Image.Image, str, str]:
        picture, name = examples[event.index]
        truth = _truth(text, name)
        return picture, truth, look(picture, text, truth)

    # gradio evaluates the annotation, and the name `gr` does not exist in this module at run time.
    pick.__annotations__["event"] = gr.SelectData

    def upload(path: str, text: str) -> tuple[Any, Any, Any, str]:
        try:
            picture = read_picture(path)
        except (ValueError, OSError) as error:
            return gr.skip(), gr.skip(), gr.skip(), message_html(str(error))
        return picture, NO_CLASS, gr.Gallery(selected_index=None), look(picture, text, NO_CLASS)

    def rename(text: str, truth: str) -> Any:
        try:
            found = parse_class_names(text)
        except ValueError:
            return gr.skip()  # the error is shown when the names are used
        return gr.Dropdown(choices=[NO_CLASS, *found], value=_truth(text, truth))

    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=False) as page:
        gr.HTML(
            f"<h1>Attack it yourself</h1><p>{EXPLANATION} {escape(setup.note)}</p>",
            elem_id="title",
            apply_default_css=False,
        )
        picture = gr.State(examples[0][0])
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                gallery = gr.Gallery(
                    [(_thumbnail(image), name) for image, name in examples],
                    show_label=False, container=False, elem_id="examples", columns=5, height="auto", format="png",
                    object_fit="contain", allow_preview=False, interactive=False, buttons=[], selected_index=0,
                )  # fmt: skip
                uploaded = gr.UploadButton("Upload a picture", file_types=["image"], size="sm", elem_id="upload")
                text = gr.Textbox(", ".join(names), label="Class names", lines=2, elem_id="classes")
                truth = gr.Dropdown(
                    [NO_CLASS, *names], value=_truth(", ".join(names), examples[0][1]), label="The picture shows",
                    allow_custom_value=True, elem_id="truth",
                )  # fmt: skip
                attack = gr.Radio(list(ATTACKS), value="image", label="Attack", elem_id="attack")
                with gr.Accordion("Budget", open=False, elem_id="budget"):
                    radius = gr.Textbox(
                        _radius(epsilon, setup.budget.norm, size), label="epsilon", elem_id="epsilon",
                        info="pixels are in [0, 1]; fractions such as 4/255 are allowed",
                    )  # fmt: skip
                    norm = gr.Radio(["linf", "l2"], value=setup.budget.norm, label="Norm")
                    steps = gr.Slider(1, 200, value=setup.budget.num_steps, step=1, label="Gradient steps")
                    changes = gr.Slider(0, 3, value=setup.budget.max_changes, step=1, label="Words changed per prompt")
                    source = gr.Radio(
                        list(setup.sources), value=next(iter(setup.sources), None), visible=len(setup.sources) > 1,
                        label="Substitutes", info="known: the substitutes that training used",
                    )  # fmt: skip
                    rho = gr.Slider(0, 2, value=setup.budget.rho, step=0.1, label="rho (text embedding attack)")
                    seed = gr.Number(setup.budget.seed, precision=0, minimum=0, label="Seed")
                button = gr.Button("Attack", variant="primary", elem_id="go")
            with gr.Column(scale=5, min_width=480):
                result = gr.HTML(elem_id="result", apply_default_css=False)
        settings = [radius, norm, steps, changes, source, rho, seed]
        private: dict[str, Any] = {"api_visibility": "private"}
        page.load(look, [picture, text, truth], result, **private)
        gallery.select(pick, text, [picture, truth, result], **private)
        uploaded.upload(upload, [uploaded, text], [picture, truth, gallery, result], **private)
        text.blur(rename, [text, truth], truth, show_progress="hidden", **private)
        norm.input(lambda norm: _radius(epsilon, norm, size), norm, radius, show_progress="hidden", **private)
        button.click(show, [picture, text, truth, attack, *settings], result, **private)
    return page


def launch(page: gr.Blocks, host: str = "127.0.0.1", port: int | None = None, open_browser: bool = False) -> str:
    """Serve the page in the background and return its address; `page.block_thread()` then waits for Ctrl-C.

    Args:
        page: the result of `build_page`.
        host: address to listen on; any address but the loopback one admits other machines.
        port: port to listen on; None takes the first free one from 7860.
        open_browser: open the page in the default browser.

    Raises:
        OSError: if the port is taken, or the page does not answer within seconds.
    """
    import gradio as gr

    # System fonts: they need no download, and gradio's bold face lacks most letters.
    fonts: dict[str, Any] = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Default(primary_hue="emerald", neutral_hue="slate", **fonts)
    try:
        _, url, _ = page.launch(
            server_name=host, server_port=port, inbrowser=open_browser, prevent_thread_lock=True, quiet=True,
            share=False, ssr_mode=False, pwa=False, mcp_server=False, enable_monitoring=False, footer_links=[],
            max_file_size=MAX_BYTES, theme=theme, css=CSS,
        )  # fmt: skip
    except ValueError as error:  # gradio's message recommends a share link, which this page never has
        page.close(verbose=False)
        raise OSError(
            f"the page does not answer at {host}: the machine is too busy, or a proxy intercepts the request "
            "(set NO_PROXY=127.0.0.1 to bypass it)."
        ) from error
    return str(url)


def _compare(
    setup: Setup,
    picture: Image.Image,
    text: str,
    truth: str,
    attack: str,
    epsilon: float | str | None = None,
    norm: str = "linf",
    num_steps: int = 1,
    max_changes: int = 1,
    source: str | None = None,
    rho: float = 1.0,
    seed: int = 0,
) -> Any:
    names = parse_class_names(text)
    budget = ThreatModel.preset(
        "standard",
        epsilon=setup.budget.epsilon if epsilon is None else epsilon,
        norm=norm,
        num_steps=int(num_steps),
        max_changes=int(max_changes),
        rho=rho,
        seed=int(seed),
        template=setup.budget.template,
    )
    label = None if truth == NO_CLASS else _index(truth, names)
    candidates = setup.sources.get(source) if source else None
    return attack_and_compare(setup.models, picture, names, attack, budget, label, candidates)


def _index(truth: str, names: Sequence[str]) -> int:
    cleaned = [clean_class_name(name) for name in names]
    if clean_class_name(truth) not in cleaned:
        raise ValueError(f"The picture shows {truth!r}, which is not among the class names. Add it, or choose another.")
    return cleaned.index(clean_class_name(truth))


def _truth(text: str, name: str) -> str:
    """Return the name typed that matches a class's name, or `NO_CLASS` if none does."""
    try:
        names = parse_class_names(text)
        return names[_index(name.replace(",", " "), names)]
    except ValueError:
        return NO_CLASS


def _radius(epsilon: float, norm: str, size: tuple[int, int]) -> str:
    """Return a start value for epsilon in a norm.

    In l2 it is the length of a perturbation that changes half of all values by epsilon.
    """
    return fraction(epsilon) if norm == "linf" else f"{epsilon * math.sqrt(1.5 * size[0] * size[1]):.3g}"


def _examples(setup: Setup) -> list[tuple[Image.Image, str]]:
    """Return the first picture of each class with its class name."""
    rows = ImageRows(setup.dataset)
    labels = read_labels(setup.dataset, str(rows.columns.label)).tolist()
    first = {label: row for row, label in reversed(list(enumerate(labels)))}
    return [
        (to_picture(rows[first[label]]["image"].numpy()), str(setup.class_names[label]))
        for label in sorted(first)[:EXAMPLES]
    ]


def _thumbnail(picture: Image.Image) -> Image.Image:
    scale = THUMBNAIL / max(picture.size)
    size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
    return picture.resize(size, Image.Resampling.NEAREST if max(picture.size) < SHARP_BELOW else None)
