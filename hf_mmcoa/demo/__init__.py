"""A page to try attacks by hand: one picture, a few class names, one budget, and what each model makes of it.

`compare` computes and knows no page, `panels` turns what it found into HTML, `page` is the only file that imports
gradio.
"""

from .inputs import parse_class_names, read_picture
from .side_by_side import ATTACKS, Comparison, Reading, attack_and_compare

__all__ = ["ATTACKS", "Comparison", "Reading", "attack_and_compare", "parse_class_names", "read_picture"]
