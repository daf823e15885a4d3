"""Tables of substitutes by name: those of the embedded data sets, or a JSON file of `{"word": ["substitute", ...]}`."""

from __future__ import annotations

import json
from pathlib import Path

from ..attacks.candidates import SynonymTable

EMBEDDED = ("digits", "fashion-mnist")


def synonym_table(name: str) -> SynonymTable | None:
    """The table of an embedded data set or of a `.json` file; None where `name` is neither.

    Raises:
        ValueError: if the file is missing or holds no table.
    """
    if name == "digits":
        from ..data import digits  # scikit-learn is imported only where the digits are used

        return digits.SYNONYMS
    if name == "fashion-mnist":
        from ..data import fashion_mnist

        return fashion_mnist.SYNONYMS
    if not name.endswith(".json"):
        return None
    try:
        return SynonymTable(json.loads(Path(name).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise ValueError(f"`candidates`: there is no file {name}.") from None
    except (ValueError, AttributeError) as error:
        raise ValueError(f"`candidates`: {name} holds no synonym table: {error}") from error
