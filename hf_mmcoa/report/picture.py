"""Draw a gallery as one PNG: what the attacker changed, and which model still classifies it correctly.

matplotlib is used without pyplot, so no global state changes and no window system is needed. One set of axes in inches
holds everything. Correct and wrong predictions differ in colour, in brightness and by a mark.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..io import printable, write_bytes
from .conditions import count, fraction
from .gallery import THREATS, Gallery, Sample, View, word_differences

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

# Okabe and Ito's bluish green and vermilion, darkened for text: told apart with every common colour vision.
RIGHT, WRONG, INK, MUTED = "#00664a", "#b23f00", "#1c1e21", "#667079"
RIGHT_FILL, LINE, FRAME = "#d3efe4", "#d9dde1", "#9aa3ab"
HEADS = {"clean": "nothing", "image": "image", "text": "text", "multimodal": "both"}

MARGIN, PICTURE, GAP, PANEL_GAP = 0.28, 0.86, 0.07, 0.36  # inches, as are all coordinates
CHIP_WIDTH, CHIP_HEIGHT = 0.78, 0.5
ROW_HEIGHT = PICTURE + 0.34
CHIPS_WIDTH = len(THREATS) * CHIP_WIDTH + (len(THREATS) - 1) * 0.05
PANEL_WIDTH = 2 * PICTURE + 2 * GAP + 0.04 + CHIPS_WIDTH
CAPTION_WIDTH = 2.1
HEADER_HEIGHT, FOOTER_HEIGHT = 1.6, 0.42
LEADING = 1.15 / 72  # inches from one line to the next, for each point of size
SHARP_BELOW = 64  # images of fewer pixels per side are enlarged without smoothing: single pixels matter
MAX_BYTES = 400_000
LONGEST = 300  # characters of a line; prompts have 77 tokens


def save_picture(gallery: Gallery, path: str | Path, title: str | None = None) -> None:
    """Draw a gallery as a PNG of at most 400 kB.

    Args:
        gallery: samples under attack, for any number of models, which are drawn side by side.
        path: path of the PNG, which is written in one step.
        title: title line; names the models when None.
    """
    width = 2 * MARGIN + PICTURE + len(gallery.models) * (PANEL_GAP + PANEL_WIDTH)
    write_bytes(_png(gallery, title or "Under attack: " + " and ".join(gallery.models), width), path)


def _png(gallery: Gallery, title: str, width: float) -> bytes:
    """Render as sharply as `MAX_BYTES` allows: noise compresses badly."""
    for dpi in (160, 130, 100, 75, 50):
        rendered = _render(gallery, title, width, dpi)
        for picture in (rendered, rendered.quantize(256, dither=Image.Dither.NONE)):
            stream = io.BytesIO()
            picture.save(stream, "PNG", optimize=True)
            if stream.tell() <= MAX_BYTES:
                return stream.getvalue()
    return stream.getvalue()


def _render(gallery: Gallery, title: str, width: float, dpi: int) -> Image.Image:
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The picture must not depend on a user's matplotlibrc; matplotlib brings the font. "$" in a name is no formula.
    with rc_context({"font.family": "DejaVu Sans", "text.parse_math": False, "text.usetex": False}):
        room = width - 2 * MARGIN
        head = [(line, 16.0, INK, "bold") for line in _lines(title, 16, room, "bold")]
        head += [(line, 10.0, MUTED, "normal") for line in _lines(threat_sentence(gallery.attack_spec), 10, room)]
        foot = _lines(_footer(gallery), 8.5, room)
        header = HEADER_HEIGHT + sum(0.3 if size > 10 else 0.21 for _, size, _, _ in head) - 0.51
        height = header + len(gallery.samples) * ROW_HEIGHT + FOOTER_HEIGHT + (len(foot) - 1) * 0.17
        figure = Figure(figsize=(width, height), dpi=dpi, facecolor="white")
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        y = 0.36
        for line, size, colour, weight in head:
            _label(axes, MARGIN, y, line, size, colour, weight=weight)
            y += 0.3 if size > 10 else 0.21
        _heads(axes, gallery, header)
        for index, sample in enumerate(gallery.samples):
            _row(axes, gallery, sample, header + index * ROW_HEIGHT)
        for index, line in enumerate(reversed(foot)):
            _label(axes, MARGIN, height - 0.24 - index * 0.17, line, 8.5, MUTED)
        axes.set_xlim(0, width)  # after imshow, which moves the limits
        axes.set_ylim(height, 0)
        axes.set_aspect("auto")
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _heads(axes: Axes, gallery: Gallery, header: float) -> None:
    """Write the names of models and columns above the first row, which begins at `header`."""
    top, bottom = header - 0.48, header - 0.17
    _label(axes, MARGIN + PICTURE / 2, bottom, "image", 8.5, MUTED, ha="center")
    for column, model in enumerate(gallery.models):
        left = _panel(column)
        _label(axes, left, top, model, 12.5, INK, weight="bold", room=PANEL_WIDTH - CAPTION_WIDTH)
        _label(axes, left + PICTURE / 2, bottom, f"change \u00d7 {gallery.amplification:.3g}", 8.5, MUTED, ha="center")
        _label(axes, left + 1.5 * PICTURE + GAP, bottom, "attacked", 8.5, MUTED, ha="center")
        chips = left + PANEL_WIDTH - CHIPS_WIDTH
        _label(axes, left + PANEL_WIDTH, top, "prediction, under attack on …", 8.5, MUTED, ha="right")
        for index, threat in enumerate(THREATS):
            x = chips + index * (CHIP_WIDTH + 0.05) + CHIP_WIDTH / 2
            _label(axes, x, bottom, HEADS[threat], 9.5, INK, ha="center", weight="bold")


def _row(axes: Axes, gallery: Gallery, sample: Sample, top: float) -> None:
    from matplotlib.lines import Line2D

    end = _panel(len(gallery.models)) - PANEL_GAP
    axes.add_artist(Line2D([MARGIN, end], [top - 0.1] * 2, color=LINE, linewidth=0.8))
    name = str(gallery.class_names[sample.label])
    _image(axes, MARGIN, top, sample.image)
    middle = MARGIN + PICTURE / 2
    room, lines, size = PICTURE + 0.3, [name], 9.5
    if _text_width(_shown(name), size, "bold") > room:
        lines, size = _fitted(name, room, 0.24)
    for index, line in enumerate(lines):
        y = top + PICTURE + 0.11 + (index - (len(lines) - 1) / 2) * size * LEADING
        _label(axes, middle, y, line, size, INK, ha="center", weight="bold", room=room)
    for column, model in enumerate(gallery.models):
        left, view = _panel(column), sample.views[model]
        _image(axes, left, top, np.clip(0.5 + gallery.amplification * view.perturbation, 0, 1))
        _image(axes, left + PICTURE + GAP, top, np.clip(sample.image + view.perturbation, 0, 1))
        chips = left + PANEL_WIDTH - CHIPS_WIDTH
        _prompt(axes, chips, top + 0.12, view)
        for index, threat in enumerate(THREATS):
            prediction = view.predictions[threat]
            _chip(
                axes,
                chips + index * (CHIP_WIDTH + 0.05),
                top + PICTURE - CHIP_HEIGHT,
                str(gallery.class_names[prediction.label]),
                prediction.probability,
                prediction.label == sample.label,
            )


def _chip(axes: Axes, left: float, top: float, name: str, probability: float, right: bool) -> None:
    from matplotlib.patches import FancyBboxPatch

    axes.add_patch(
        FancyBboxPatch(
            (left, top),
            CHIP_WIDTH,
            CHIP_HEIGHT,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor=RIGHT_FILL if right else WRONG,
            edgecolor="none",
        )
    )
    colour, middle = RIGHT if right else "white", left + CHIP_WIDTH / 2
    text, size, room = f"{'✓' if right else '✗'} {_shown(name)}", 9.5, CHIP_WIDTH - 0.08
    if _text_width(text, size, "bold") <= room:
        _label(axes, middle, top + 0.175, text, size, colour, ha="center", weight="bold")
        _label(axes, middle, top + 0.365, f"{100 * probability:.0f}%", 8.5, colour, ha="center")
        return
    text = f"{text}, {100 * probability:.0f}%"  # a long name: smaller, on up to four lines
    lines, size = _fitted(text, room, CHIP_HEIGHT - 0.06)
    for index, line in enumerate(lines):
        y = top + CHIP_HEIGHT / 2 + (index - (len(lines) - 1) / 2) * size * LEADING
        _label(axes, middle, y, line, size, colour, ha="center", weight="bold", room=room)


def _fitted(text: str, room: float, height: float) -> tuple[list[str], float]:
    """Return a text on lines of at most `room` inches and the largest size at which they fit into `height`."""
    for size in (8.0, 7.0, 6.0, 5.0):
        lines = _lines(text, size, room, "bold")
        if len(lines) * size * LEADING <= height and all(_text_width(line, size, "bold") <= room for line in lines):
            break
    return lines[: int(height / (size * LEADING))], size


def _lines(text: str, size: float, room: float, weight: str = "normal") -> list[str]:
    """Return a text broken into lines of at most `room` inches where it has blanks."""
    lines: list[str] = []
    for word in _shown(text).split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _text_width(longer, size, weight) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines or [""]


@lru_cache(maxsize=4096)
def _text_width(text: str, size: float, weight: str) -> float:
    """Return the width of a line in inches, without drawing it."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight=weight)
    # Control points bound the curves; the curves' own extents take a second for a hundred letters.
    return float(np.ptp(TextPath((0, 0), text, size=size, prop=font).vertices[:, 0])) / 72 if text.strip() else 0.0


def _prompt(axes: Axes, left: float, y: float, view: View) -> None:
    """Draw the prompt on one line, replaced words struck out and substitutes highlighted; shrink it if it is long."""
    from matplotlib.lines import Line2D

    pieces = word_differences(_shown(view.prompt), _shown(view.adv_prompt))
    changed = any(kind != "same" for kind, _ in pieces)
    size = 9.0
    styles: dict[str, dict[str, Any]] = {
        "same": {"color": MUTED},
        "old": {"color": MUTED},
        "new": {"color": WRONG, "weight": "bold"},
    }
    for attempt in range(2):
        drawn: list[Any] = []
        x = left
        for index, (kind, text) in enumerate(pieces):
            replaces = kind == "new" and index > 0 and pieces[index - 1][0] == "old"
            x += 0.05 if replaces else 0
            shown = ("→ " if replaces else "") + text.replace(" ", "\u00a0")
            drawn.append(axes.text(x, y, shown, size=size, va="center", **styles[kind]))
            end = x + _width(drawn[-1])
            if kind == "old":
                drawn.append(axes.add_artist(Line2D([x, end], [y, y], color=MUTED, linewidth=1)))
            x = end
        if not changed:
            drawn.append(axes.text(x + 0.08, y, "(unchanged)", size=size, va="center", color=MUTED, style="italic"))
            x += 0.08 + _width(drawn[-1])
        if attempt or x - left <= CHIPS_WIDTH:
            return
        size *= CHIPS_WIDTH / (x - left)
        for artist in drawn:
            artist.remove()


def _image(axes: Axes, left: float, top: float, image: np.ndarray) -> None:
    """Draw an image, (3, h, w) in [0, 1], centred in a square, with a thin frame that makes white edges visible."""
    from matplotlib.patches import Rectangle

    height, width = image.shape[1:]
    scale = PICTURE / max(height, width)
    x, y = left + (PICTURE - width * scale) / 2, top + (PICTURE - height * scale) / 2
    extent = (x, x + width * scale, y + height * scale, y)
    smoothing = "nearest" if max(height, width) < SHARP_BELOW else "antialiased"
    axes.imshow(image.transpose(1, 2, 0), extent=extent, interpolation=smoothing)
    frame = Rectangle((x, y), width * scale, height * scale, facecolor="none", edgecolor=FRAME, linewidth=0.6)
    axes.add_patch(frame)


def _label(
    axes: Axes, x: float, y: float, text: str, size: float, colour: str, room: float | None = None, **style: Any
) -> None:
    """Draw a line of text, shortened until it fits into `room` inches."""
    text = _shown(text)[: LONGEST if room is None else LONGEST // 4]
    drawn = axes.text(x, y, text, size=size, color=colour, va="center", **style)
    if room is not None:
        if (found := _width(drawn)) > room:
            drawn.set_fontsize(size * max(room / found, 0.75))
        while _width(drawn) > room and len(text) > 2:
            text = text[:-1]
            drawn.set_text(text.rstrip() + "…")


def _shown(text: str) -> str:
    """Return a text on one line, cut to `LONGEST` characters: fitting it takes time for each character."""
    return " ".join(printable(text).split())[:LONGEST]


def _width(text: Text) -> float:
    """Return the width of a text in inches, whatever the axes' limits."""
    figure = text.get_figure()
    return text.get_window_extent().width / figure.dpi  # type: ignore[union-attr]


def _panel(column: int) -> float:
    return MARGIN + PICTURE + PANEL_GAP + column * (PANEL_WIDTH + PANEL_GAP)


def threat_sentence(spec: Mapping[str, Any]) -> str:
    """Describe the threat model in a sentence for readers who have never seen one."""
    amount = fraction(float(spec["epsilon"]))
    image = f"every pixel by up to {amount} of the range from black to white"
    if spec["norm"] == "l2":
        image = f"the image by a Euclidean distance of up to {amount}"
    text = ""
    if "words" in spec["text_attacks"]:
        text = f" and {count(spec['max_changes'], 'word')} of the prompt"
    elif "characters" in spec["text_attacks"]:
        text = f" and {count(spec['max_edits'], 'character')} of the prompt"
    return f"The attacker may change {image}{text}."


def _footer(gallery: Gallery) -> str:
    return (
        f"✓ correct, ✗ wrong, with the model's probability. Both: image and text attack together. "
        f"Images drawn at random with seed {gallery.seed}. "
        f"Grey is no change; changes are amplified {gallery.amplification:.3g} times."
    )
