"""The HTML of a comparison: one panel per model, with its verdict first.

All text from outside is escaped. Colours come in a light and a dark set; ink, lines and background are variables of the
page. Right and wrong differ by colour, mark and word.
"""

from __future__ import annotations

import html

import numpy as np

from ..io import printable
from ..report.conditions import count, fraction
from ..report.gallery import to_base64, word_differences
from ..report.picture import RIGHT, SHARP_BELOW, WRONG
from .side_by_side import Comparison, Reading

SHOWN_CLASSES = 5

STYLE = f"""
.mm {{ --right: {RIGHT}; --wrong: {WRONG}; --right-fill: #d3efe4; --wrong-fill: #fbe3d6;
  color: var(--body-text-color); }}
.dark .mm {{ --right: #5fd3ac; --wrong: #ff9a6b; --right-fill: #12392c; --wrong-fill: #4a2413; }}
.mm-panels {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 16px; }}
.mm-panel {{ border: 1px solid var(--border-color-primary); border-radius: 12px; padding: 16px 18px; min-width: 0;
  background: var(--background-fill-primary); }}
.mm-panel h3 {{ margin: 0 0 8px; font-size: 15px; font-weight: 600; overflow-wrap: anywhere; }}
.mm-verdict {{ border-radius: 8px; padding: 8px 12px; font-size: 19px; font-weight: 650; margin-bottom: 14px;
  overflow-wrap: anywhere; }}
.mm-right {{ color: var(--right); background: var(--right-fill); }}
.mm-wrong {{ color: var(--wrong); background: var(--wrong-fill); }}
.mm-pictures {{ display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px; margin-bottom: 12px; }}
.mm-pictures figure {{ margin: 0; min-width: 0; }}
.mm-pictures img {{ width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 4px; display: block;
  border: 1px solid var(--border-color-primary); }}
.mm-pictures .mm-sharp {{ image-rendering: pixelated; }}
.mm-pictures figcaption, .mm-note {{ color: var(--body-text-color-subdued); font-size: 12.5px; margin-top: 4px; }}
.mm-bars {{ width: 100%; border-collapse: collapse; font-size: 13.5px; table-layout: fixed; }}
.mm-bars th, .mm-bars td {{ padding: 3px 0; text-align: left; border: 0; font-weight: 400; }}
.mm-bars thead th {{ color: var(--body-text-color-subdued); font-size: 12.5px; }}
.mm-bars .mm-name {{ width: 26%; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; padding-right: 8px; }}
.mm-bars td {{ padding-right: 10px; }}
.mm-cell {{ display: flex; align-items: center; gap: 8px; }}
.mm-track {{ flex: 1; height: 10px; border-radius: 5px; overflow: hidden;
  background: var(--border-color-primary); }}
.mm-track div {{ height: 100%; background: var(--body-text-color-subdued); opacity: 0.45; }}
.mm-bars .mm-true .mm-track div {{ background: var(--right); opacity: 1; }}
.mm-bars .mm-fooling .mm-track div {{ background: var(--wrong); opacity: 1; }}
.mm-bars .mm-true .mm-name {{ color: var(--right); font-weight: 650; }}
.mm-bars .mm-fooling .mm-name {{ color: var(--wrong); font-weight: 650; }}
.mm-cell span {{ width: 44px; text-align: right; font-variant-numeric: tabular-nums; }}
.mm-prompt {{ margin: 12px 0 0; font-size: 14px; overflow-wrap: anywhere; }}
.mm-prompt del, .mm-more del {{ color: var(--body-text-color-subdued); }}
.mm-prompt mark, .mm-more mark {{ color: var(--wrong); background: var(--wrong-fill); font-weight: 650; padding: 0 3px;
  border-radius: 3px; }}
.mm-more {{ font-size: 13px; margin-top: 4px; overflow-wrap: anywhere; }}
.mm-more summary {{ color: var(--body-text-color-subdued); cursor: pointer; }}
.mm-note {{ margin-top: 12px; }}
.mm-alert {{ border-radius: 10px; padding: 14px 16px; font-size: 15px; overflow-wrap: anywhere; }}
"""


def escape(text: str) -> str:
    """Escape a text from outside for HTML, without characters that change its direction."""
    return html.escape(printable(text))


def message_html(text: str) -> str:
    """Return an error message as HTML, to be shown in the place of the panels."""
    return f'<div class="mm"><div class="mm-alert mm-wrong" role="alert">{escape(text)}</div></div>'


def comparison_html(comparison: Comparison) -> str:
    """Return all models side by side as HTML, with a line that states the attack budget."""
    panels = "".join(_panel(comparison, name, reading) for name, reading in comparison.readings.items())
    return (
        f'<div class="mm" data-attack="{escape(comparison.attack)}"><div class="mm-panels">{panels}</div>'
        f'<p class="mm-note">{escape(budget_sentence(comparison))}</p></div>'
    )


def budget_sentence(comparison: Comparison) -> str:
    """Return the sentence below the panels that states the attack budget."""
    spec, attack = comparison.budget, comparison.attack
    if attack == "none":
        return "No attack."
    changes = []
    if attack in ("image", "multimodal"):
        amount = fraction(spec.pixel_radius)
        changes.append(
            f"every pixel by up to {amount} of the range from black to white"
            if spec.norm == "linf"
            else f"the image by a Euclidean distance of up to {amount}"
        )
    if attack in ("words", "multimodal"):
        changes.append(f"{count(spec.max_changes, 'word')} of each prompt")
    if attack == "text embedding":
        changes.append(f"each token embedding by up to {spec.rho:g} mean embedding norms, which no words realise")
    how = f" {spec.num_steps} gradient steps per start." if attack in ("image", "multimodal") else ""
    how += f" {spec.num_text_steps} gradient steps." if attack == "text embedding" else ""
    aim = "" if comparison.has_label else " Each model's own clean prediction counts as right."
    return f"The attacker may change {' and '.join(changes)}, and knows the model.{how} Seed {spec.seed}.{aim}"


def _panel(comparison: Comparison, name: str, reading: Reading) -> str:
    verdict, good = _verdict(comparison, reading)
    return (
        f'<section class="mm-panel" data-model="{escape(name)}" data-stands="{str(reading.stands).lower()}">'
        f"<h3>{escape(name)}</h3>"
        f'<div class="mm-verdict {"mm-right" if good else "mm-wrong"}">{escape(verdict)}</div>'
        f"{_pictures(comparison, reading)}{_bars(comparison, reading)}{_prompts(comparison, reading)}</section>"
    )


def _verdict(comparison: Comparison, reading: Reading) -> tuple[str, bool]:
    names = comparison.class_names
    truth, before, after = (names[int(i)] for i in (reading.label, reading.clean.argmax(), reading.attacked.argmax()))
    if not reading.right_before:
        return f"✗ Wrong without an attack: {before}, not {truth}", False
    if comparison.attack == "none":
        return f"✓ {'Right' if comparison.has_label else 'Prediction'}: {truth}", True
    if reading.stands:
        return f"✓ Robust: still {truth}", True
    return f"✗ Fooled: {after}, not {truth}", False


def _pictures(comparison: Comparison, reading: Reading) -> str:
    if comparison.attack not in ("image", "multimodal"):
        shown = [("the picture", reading.image)]
    else:
        factor = comparison.amplification
        shown = [
            ("clean", reading.image),
            (f"change \u00d7 {factor:.3g}", np.clip(0.5 + factor * reading.perturbation, 0, 1)),
            ("attacked", np.clip(reading.image + reading.perturbation, 0, 1)),
        ]
    sharp = "mm-sharp" if max(reading.image.shape[1:]) < SHARP_BELOW else "mm-smooth"
    figures = "".join(
        f'<figure><img class="{sharp}" alt="{caption}" src="data:image/png;base64,{to_base64(image)}">'
        f"<figcaption>{caption}</figcaption></figure>"
        for caption, image in shown
    )
    return f'<div class="mm-pictures">{figures}</div>'


def _bars(comparison: Comparison, reading: Reading) -> str:
    """Return a table of probabilities: of the true class, both predictions and the likeliest other classes."""
    answers = [int(reading.clean.argmax()), int(reading.attacked.argmax())]
    ranks = np.maximum(reading.clean, reading.attacked)
    ranks[answers] += 1  # the true class and both predictions are always shown
    ranks[reading.label] += 2
    chosen = np.argsort(-ranks, kind="stable")[:SHOWN_CLASSES].tolist()
    attacked = comparison.attack != "none"
    heads = "<th>clean</th>" + ("<th>under attack</th>" if attacked else "")
    rows = ""
    for index in sorted(chosen, key=lambda index: (index != reading.label, -reading.attacked[index], index)):
        kind = "mm-true" if index == reading.label else "mm-fooling" if index in answers else ""
        cells = _bar(reading.clean[index]) + (_bar(reading.attacked[index]) if attacked else "")
        name = escape(comparison.class_names[index])
        rows += f'<tr class="{kind}"><th scope="row" class="mm-name" title="{name}">{name}</th>{cells}</tr>'
    return (
        f'<table class="mm-bars"><thead><tr><th class="mm-name"></th>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    )


def _bar(probability: float) -> str:
    percent = 100 * float(probability)
    return (
        f'<td><div class="mm-cell"><div class="mm-track"><div style="width:{percent:.1f}%"></div></div>'
        f"<span>{percent:.1f}%</span></div></td>"
    )


def _prompts(comparison: Comparison, reading: Reading) -> str:
    """Return the true class's prompt with its changed words marked, and the other prompts in a fold."""
    if comparison.attack not in ("words", "multimodal"):
        return f'<p class="mm-prompt">{escape(reading.prompts[reading.label])}</p>'
    pairs = list(zip(reading.prompts, reading.adv_prompts, strict=True))
    own = pairs.pop(reading.label)
    unchanged = "" if own[0] != own[1] else " (unchanged: no substitute is known for these words)"
    others = "".join(f"<div>{_marked(*pair)}</div>" for pair in pairs)
    changed = sum(before != after for before, after in pairs)
    fold = f"{changed} of {count(len(pairs), 'other prompt')} changed"
    return (
        f'<p class="mm-prompt">{_marked(*own)}{unchanged}</p>'
        f'<details class="mm-more"><summary>{fold}</summary>{others}</details>'
    )


def _marked(before: str, after: str) -> str:
    tags = {"same": "{}", "old": "<del>{}</del>", "new": "<mark>{}</mark>"}
    pieces = [tags[kind].format(escape(text)) for kind, text in word_differences(before, after)]
    return "".join(pieces).replace("</del><mark>", "</del> <mark>")
