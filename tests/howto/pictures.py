"""A folder of 100 classes that a tiny CLIP can tell apart: ten shapes in ten colours, and what belongs beside them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 150, 40),
    "blue": (40, 60, 220),
    "yellow": (235, 215, 40),
    "purple": (130, 40, 150),
    "orange": (245, 140, 20),
    "pink": (250, 150, 190),
    "brown": (120, 75, 35),
    "black": (15, 15, 15),
    "turquoise": (50, 205, 200),
}
# Corners in a square of side 1; two corners are an ellipse's box.
SHAPES = {
    "disc": [(0.1, 0.1), (0.9, 0.9)],
    "pill": [(0.05, 0.35), (0.95, 0.65)],
    "square": [(0.15, 0.15), (0.85, 0.15), (0.85, 0.85), (0.15, 0.85)],
    "diamond": [(0.5, 0.05), (0.95, 0.5), (0.5, 0.95), (0.05, 0.5)],
    "triangle": [(0.5, 0.1), (0.95, 0.9), (0.05, 0.9)],
    "wedge": [(0.05, 0.05), (0.95, 0.05), (0.05, 0.95)],
    "bar": [(0.35, 0.05), (0.65, 0.05), (0.65, 0.95), (0.35, 0.95)],
    "plank": [(0.05, 0.38), (0.95, 0.38), (0.95, 0.62), (0.05, 0.62)],
    "arrow": [(0.05, 0.4), (0.5, 0.4), (0.5, 0.1), (0.95, 0.5), (0.5, 0.9), (0.5, 0.6), (0.05, 0.6)],
    "hourglass": [(0.1, 0.1), (0.9, 0.1), (0.1, 0.9), (0.9, 0.9)],
}
SYNONYMS = {
    "red": ["crimson", "scarlet"],
    "green": ["emerald", "lime"],
    "blue": ["azure", "navy"],
    "yellow": ["lemon", "amber"],
    "purple": ["violet", "plum"],
    "disc": ["circle", "roundel"],
    "square": ["box", "quadrat"],
    "pill": ["capsule", "tablet"],
    "black square": ["tile", "slab"],
}


def picture(colour: str, shape: str, generator: np.random.Generator) -> Image.Image:
    """A shape of about 34 pixels on a light, noisy ground, of a size that is not square."""
    width, height = int(generator.integers(44, 52)), int(generator.integers(40, 48))
    pixels = generator.integers(225, 256, (height, width, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    left, top, side = *generator.integers(2, 8, 2), generator.integers(32, 36)
    corners = [(left + side * x, top + side * y) for x, y in SHAPES[shape]]
    fill = tuple(int(value) for value in np.clip(np.array(COLOURS[colour]) + generator.integers(-9, 10, 3), 0, 255))
    draw = ImageDraw.Draw(image)
    draw.ellipse(corners, fill=fill) if len(corners) == 2 else draw.polygon(corners, fill=fill)
    return image


def write_pictures(folder: Path, train: int, test: int, shapes: int = len(SHAPES)) -> None:
    """Write `shapes/train` and `shapes/test` with so many pictures a class, `synonyms.json`, and `captioned/`.

    The last has the same pictures without class folders, and a caption each in `metadata.csv`.
    """
    generator = np.random.default_rng(0)
    for split, count in (("train", train), ("test", test)):
        captioned = folder / "captioned" / split
        captioned.mkdir(parents=True)
        lines = ["file_name,text"]
        for colour in COLOURS:
            for shape in list(SHAPES)[:shapes]:
                own = folder / "shapes" / split / f"{colour}_{shape}"
                own.mkdir(parents=True)
                for number in range(count):
                    image = picture(colour, shape, generator)
                    image.save(own / f"{number}.png")
                    image.save(captioned / f"{colour}-{shape}-{number}.png")
                    lines.append(
                        f"{colour}-{shape}-{number}.png,picture {number} of a {colour} {shape} on a light ground"
                    )
        (captioned / "metadata.csv").write_text("\n".join(lines) + "\n")
    (folder / "synonyms.json").write_text(json.dumps(SYNONYMS))
