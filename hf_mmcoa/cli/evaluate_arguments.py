"""The options of `hf-mmcoa evaluate`, which `hf-mmcoa reproduce` fills in from a published table."""

from __future__ import annotations

import argparse

from .defence_argument import add_defence_arguments
from .measurement_arguments import add_measurement_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa evaluate`."""
    parser.add_argument(
        "--model",
        required=True,
        nargs="+",
        metavar="PATH_OR_ID",
        help="folder or Hub id of a CLIPModel with its processor, of an adapter or of an OpenCLIP model, a file of "
        "weights, or robust: and the name of a robust CLIP (docs/convert.md); or several",
    )
    parser.add_argument(
        "--base",
        metavar="PATH_OR_ID",
        help="model that an adapter or a checkpoint was trained from; an adapter's own record without it",
    )
    parser.add_argument(
        "--activation",
        choices=["quick_gelu", "gelu"],
        help="activation function of a checkpoint, if neither it nor --base states it",
    )
    parser.add_argument(
        "--processor", metavar="PATH_OR_ID", help="model to take a checkpoint's tokenizer and image processor from"
    )
    parser.add_argument(
        "--task",
        choices=["zero-shot", "retrieval"],
        default="zero-shot",
        help="classify images by class prompts (the default), or retrieve captions and images",
    )
    parser.add_argument(
        "--output",
        metavar="FILE_OR_DIR",
        help="JSON result to write, or a folder for one result of each model, data set and epsilon; without it the "
        "numbers are printed",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the result of another evaluation in --output")
    parser.add_argument(
        "--shard",
        metavar="K/N",
        help="compute part K of N, for jobs that run apart, and keep it beside --output; once all N are there, the "
        "same command with --shard merge/N writes the result",
    )
    parser.add_argument(
        "--gallery", type=int, metavar="N", help="also write N attacked samples beside --output, for the report"
    )
    parser.add_argument(
        "--csv",
        nargs="?",
        const="",
        metavar="FILE",
        help="also write the numbers as CSV, one row a metric; without FILE beside --output",
    )
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="also write the attacked images and texts, and the predictions under every attack as parquet",
    )
    parser.add_argument(
        "--export_images",
        "--export-images",
        choices=["png", "safetensors"],
        default="png",
        help="form of the images of --export: png, rounded to 8 bits (the default; the outcome after rounding is "
        "measured too), or safetensors, exact",
    )
    parser.add_argument(
        "--text_column",
        "--text-column",
        metavar="NAME",
        help="column of the captions; needed if the data set has labels too, or the column an unusual name",
    )
    add_defence_arguments(parser)
    add_measurement_arguments(parser, several=True)
