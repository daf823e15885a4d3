"""Build the pictograms bed: sheets of pictures, concepts and substitutes, as they lie in `hf_mmcoa`.

    apt-get download wordnet-base && dpkg -x wordnet-base_*.deb wordnet
    pip install nltk resvg_py==0.5.0
    python examples/pictograms/build.py --packages /tmp/pictograms --wordnet wordnet/usr/share/wordnet

Fetches the pinned npm packages of `designs.py` into `--packages`; the library itself needs neither them nor a network.
The same packages give the same files, byte for byte. `--contact-sheet` writes a picture of everything, to look at.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from concepts import Concept, assign_subsets, choose_concepts
from designs import DESIGNS, Design, Icons, unpack
from PIL import Image, ImageDraw
from words import substitutes

from hf_mmcoa.substitutes.embedded import wordnet_file
from hf_mmcoa.substitutes.wordnet import _read_wordnet

PACKAGE = Path(__file__).parents[2] / "hf_mmcoa"
EMOJIBASE, EMOJILIB = "emojibase-data@17.0.0", "emojilib@4.0.3"
COLUMNS = 20
SIZE = 48
COLOURS = 64  # of one picture


def main() -> None:
    """Build everything from the command line's folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, required=True, help="folder for the npm packages")
    parser.add_argument("--wordnet", required=True, help="folder of WordNet 3.0's own files")
    parser.add_argument("--contact-sheet", type=Path, help="PNG to write, all designs side by side with names")
    args = parser.parse_args()
    args.packages.mkdir(parents=True, exist_ok=True)
    designs = [Icons(each, unpack(each.package, args.packages)) for each in DESIGNS]
    emojibase = unpack(EMOJIBASE, args.packages)
    emojilib = json.loads((unpack(EMOJILIB, args.packages) / "dist" / "emoji-en-US.json").read_text(encoding="utf-8"))
    wordnet = _read_wordnet(args.wordnet)
    concepts = choose_concepts(emojibase, wordnet, _parts(Path(args.wordnet)), designs)
    keywords = {each.name: _keywords(each, emojilib.get(each.emoji, [])) for each in concepts}
    words = substitutes(concepts, wordnet, {name: set(each) for name, each in keywords.items()})
    assign_subsets(concepts, {name for name, found in words.items() if len(found) >= 2}, len(designs))
    folder = PACKAGE / "data" / "pictograms"
    folder.mkdir(exist_ok=True)
    for icons in designs:
        _sheet(icons, concepts).save(folder / f"{icons.design.name}.png", optimize=True)
    _write(folder / "concepts.json", _concepts(concepts, keywords))
    (folder / "NOTICE").write_text(_notice(), encoding="utf-8")
    _write(PACKAGE / "substitutes" / "pictograms.json", _words(concepts, words))
    if args.contact_sheet:
        _contact_sheet(designs, concepts).save(args.contact_sheet)


def _parts(wordnet: Path) -> dict[int, int]:
    """Return the number of the lexicographer file of each noun synset, which nltk needs a file of names for."""
    lines = (wordnet / "data.noun").read_text(encoding="utf-8").splitlines()
    return {int(line[:8]): int(line[9:11]) for line in lines if line[:8].isdigit()}


def _keywords(concept: Concept, more: Sequence[str]) -> list[str]:
    """Return the keywords of both packages without the name; they are associations, not synonyms."""
    words = dict.fromkeys(each.lower().replace("_", " ") for each in (*concept.tags, *more))
    return [each for each in words if each.isascii() and each.replace(" ", "").isalpha() and each != concept.name]


def _sheet(icons: Icons, concepts: Sequence[Concept]) -> Image.Image:
    """Return the design's pictures in the concepts' order, row by row; what it does not draw stays transparent."""
    rows = -(-len(concepts) // COLUMNS)
    sheet = Image.new("RGBA", (COLUMNS * SIZE, rows * SIZE), (0, 0, 0, 0))
    for place, concept in enumerate(concepts):
        if key := concept.icons.get(icons.design.name):
            picture = icons.draw(key, SIZE).quantize(COLOURS, method=Image.Quantize.FASTOCTREE).convert("RGBA")
            sheet.paste(picture, (place % COLUMNS * SIZE, place // COLUMNS * SIZE))
    return sheet


def _concepts(concepts: Sequence[Concept], keywords: dict[str, list[str]]) -> dict[str, Any]:
    return {
        "size": SIZE,
        "columns": COLUMNS,
        "designs": {
            each.name: {"split": each.split, "licence": each.licence, "from": each.package} for each in DESIGNS
        },
        "concepts": [
            {
                "name": each.name,
                "emoji": each.emoji,
                "group": each.group,
                "subset": each.subset,
                "sense": each.sense.name(),
                "frequency": each.count,
                "captions": each.captions,
                "keywords": keywords[each.name],
                "designs": list(each.icons),
            }
            for each in concepts
        ],
    }


def _words(concepts: Sequence[Concept], words: dict[str, dict[str, str]]) -> dict[str, Any]:
    return {
        "source": wordnet_file()["source"],
        "how": "Chosen by the rules of examples/pictograms/words.py, by no model and not by hand. Each word has its "
        "relation to the concept's sense; `keyword`: the emoji's keywords (emojibase-data, emojilib; MIT) have it too.",
        "license": wordnet_file()["license"],
        "words": {each.name: {"sense": each.sense.name(), "words": words[each.name]} for each in concepts},
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with one line for each concept."""
    items = []
    for key, value in content.items():
        if isinstance(value, list):
            lines = ",\n  ".join(json.dumps(each, ensure_ascii=False) for each in value)
            items.append(f" {json.dumps(key)}: [\n  {lines}\n ]")
        elif isinstance(value, dict):
            lines = ",\n  ".join(f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())
            items.append(f" {json.dumps(key)}: {{\n  {lines}\n }}")
        else:
            items.append(f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    path.write_text("{\n" + ",\n".join(items) + "\n}\n", encoding="utf-8")


def _notice() -> str:
    parts = [
        "The pictures in this folder are by the designers below, not under the licence of the rest of this package.",
        f"They were changed: drawn as {SIZE} x {SIZE} pixels from the SVG of the npm package, reduced to {COLOURS} "
        "colours a\npicture, and put on one sheet for each design. Nobody below endorses this package.",
        *map(_credit, DESIGNS),
        f"Names and keywords in concepts.json: {EMOJIBASE} (c) Miles Johnson, {EMOJILIB} (c) 2014 Mu-An Chiou; both\n"
        "MIT. The names are those of Unicode CLDR (Unicode License v3, https://www.unicode.org/license.txt).\n"
        "Senses: WordNet 3.0 (c) 2006 Princeton University; its licence is in ../../substitutes/wordnet.json.",
        MIT,
    ]
    return "\n\n".join(parts) + "\n"


def _credit(design: Design) -> str:
    return (
        f"{design.name}.png: {design.title}, by {design.author}\n  licence: {design.licence}, {design.licence_url}\n"
        f"  source: {design.source}\n  through: {design.package}"
    )


MIT = """The MIT licence of fluent-emoji-flat (Copyright (c) Microsoft Corporation), emojibase-data (Copyright (c)
2017-2019 Miles Johnson) and emojilib (Copyright (c) 2014 Mu-An Chiou):

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""


def _contact_sheet(designs: Sequence[Icons], concepts: Sequence[Concept]) -> Image.Image:
    """Return every concept's pictures in a row under its name, five concepts abreast."""
    abreast, width, height = 5, len(designs) * (SIZE + 2) + 10, SIZE + 16
    sheet = Image.new("RGB", (abreast * width, -(-len(concepts) // abreast) * height), "white")
    draw = ImageDraw.Draw(sheet)
    for place, concept in enumerate(concepts):
        left, top = place % abreast * width, place // abreast * height
        draw.text((left, top), f"{concept.name} ({concept.subset}, {concept.sense.name()})", fill="black")
        for column, icons in enumerate(designs):
            if key := concept.icons.get(icons.design.name):
                picture = icons.draw(key, SIZE)
                sheet.paste(picture, (left + column * (SIZE + 2), top + 13), picture)
    return sheet


if __name__ == "__main__":
    main()
