"""`hf-mmcoa convert`: somebody else's checkpoint in, a CLIPModel folder out, or the other way to OpenCLIP."""

from __future__ import annotations

import argparse
import sys

from ..io import printable

HELP = "checkpoints of other repositories to CLIPModel, and CLIPModel to OpenCLIP"
DESCRIPTION = """\
Convert the weights of OpenAI's CLIP, OpenCLIP, TeCoA, PMG-AFT, TGA-ZSR, FARE or LEAF (ViT) to a CLIPModel folder that
`--model` of the other commands takes; or, with --to open_clip, a CLIPModel folder to one that OpenCLIP loads. What was
written is compared with the source on random images and texts. Files are read without running code from them.

exit status: 0, or 1 if nothing was written: unknown layout, unsafe file, or embeddings that differ by more than 1e-4;
2 for a wrong argument
"""


def run(args: argparse.Namespace) -> int:
    """Convert as the parsed arguments say and print what was read, decided and measured; returns the exit status."""
    from ..convert.checkpoint import convert  # imports torch

    try:
        conversion = convert(
            args.source,
            args.output,
            to=args.to,
            base=args.base,
            activation=args.activation,
            image_size=args.image_size,
            processor=args.processor,
        )
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa convert: {printable(str(error))}", file=sys.stderr)
        return 1
    print(f"{conversion}\n{conversion.output}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `hf-mmcoa convert`."""
    parser.add_argument("source", metavar="SOURCE", help="file of weights, or folder as transformers or OpenCLIP write")
    parser.add_argument("output", metavar="OUTPUT", help="folder to write; must be new")
    parser.add_argument("--to", choices=["clip", "open_clip"], default="clip", help="layout to write")
    parser.add_argument(
        "--base", metavar="PATH_OR_ID", help="CLIPModel that SOURCE was fine-tuned from; gives what SOURCE lacks"
    )
    parser.add_argument(
        "--activation", choices=["quick_gelu", "gelu"], help="of SOURCE, where neither it nor --base says"
    )
    parser.add_argument(
        "--image_size", "--image-size", type=int, metavar="N", help="pixels, where patches do not fill the image"
    )
    parser.add_argument("--processor", metavar="PATH_OR_ID", help="where tokenizer and image processor are copied from")
