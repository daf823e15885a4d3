"""A web page to try attacks by hand on one picture, and to compare the predictions of several models under attack.

`inputs` checks what a person enters, `side_by_side` attacks and knows no page, `panels` turns the result into HTML, and
`page` is the only module that imports gradio.
"""

from .inputs import parse_class_names, read_picture
from .side_by_side import ATTACKS, Comparison, Reading, attack_and_compare

__all__ = ["ATTACKS", "Comparison", "Reading", "attack_and_compare", "parse_class_names", "read_picture"]
