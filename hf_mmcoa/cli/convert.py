"""`hf-mmcoa convert`: convert a published checkpoint to a CLIPModel folder, or a CLIPModel to OpenCLIP."""

from __future__ import annotations

import argparse
import sys

from ..io import printable

HELP = "convert checkpoints of other repositories to CLIPModel, and CLIPModel to OpenCLIP"
DESCRIPTION = """\
Convert the weights of OpenAI's CLIP, OpenCLIP, TeCoA, PMG-AFT, TGA-ZSR, FARE or LEAF (ViT) to a CLIPModel folder that
`--model` of the other commands takes; or, with --to open_clip, a CLIPModel folder to one that OpenCLIP loads. The
embeddings of random images and texts are compared before and after. No code in the files is run.

exit status: 0, or 1 if nothing was written because the layout is unknown, the file is unsafe or embeddings differ by
more than 1e-4, 2 for a wrong argument
"""


def run(args: argparse.Namespace) -> int:
    """Convert as the parsed arguments say and print what was read, decided and measured; return the exit status."""
    from ..convert.checkpoint import convert

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
    """Add the options of `hf-mmcoa convert`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="weights file, a folder in the format of transformers or OpenCLIP, or robust: and the name of a robust "
        "CLIP (docs/convert.md)",
    )
    parser.add_argument("output", metavar="OUTPUT", help="folder to write, which must not exist")
    parser.add_argument("--to", choices=["clip", "open_clip"], default="clip", help="layout to write; clip without it")
    parser.add_argument(
        "--base", metavar="PATH_OR_ID", help="CLIPModel that SOURCE was fine-tuned from, for weights that SOURCE lacks"
    )
    parser.add_argument(
        "--activation",
        choices=["quick_gelu", "gelu"],
        help="activation function, if neither SOURCE nor --base states it",
    )
    parser.add_argument(
        "--image_size",
        "--image-size",
        type=int,
        metavar="N",
        help="image size in pixels, if the patches do not fill the image",
    )
    parser.add_argument("--processor", metavar="PATH_OR_ID", help="model to copy tokenizer and image processor from")
