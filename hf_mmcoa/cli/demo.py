"""`hf-mmcoa demo`: serve a page in the browser on which models are attacked by hand."""

from __future__ import annotations

import argparse
import importlib.util
import ipaddress
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .._version import __version__
from ..io import printable

DEFAULT_RUN = Path("output/digits")  # where `hf-mmcoa train` writes without options
EPSILON = "4/255"

HELP = "attack models by hand, on a page in the browser"
DESCRIPTION = """\
Serve a page: pick or upload an image, type class names, choose an attack and its budget, and see what each model
predicts before and after the attack. Works offline. Only this machine can open the page unless --host says otherwise.

Without --model: a tiny CLIP on digits and the robust one that `hf-mmcoa train` wrote (output/digits). A model that is
missing is trained first, in about two minutes, and kept in --cache_dir.

exit status: 0, 1 for an error, 2 for a wrong argument
"""


def run(args: argparse.Namespace) -> int:
    """Serve the page that the parsed arguments ask for until Ctrl-C; return the exit status."""
    if importlib.util.find_spec("gradio") is None:  # before anything is trained
        print('hf-mmcoa demo: needs gradio: pip install "hf-mmcoa[demo]"', file=sys.stderr)
        return 1
    try:
        from ..demo.page import build_page, launch

        page = build_page(setup(args))
        url = launch(page, args.host, args.port, args.open)
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa demo: {printable(str(error))}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    if not _is_loopback(args.host):
        print(f"hf-mmcoa demo: anybody who can reach {args.host} can use this page", file=sys.stderr)
    print(f"{url}  (Ctrl-C ends it)", flush=True)
    page.block_thread()
    return 0


def setup(args: argparse.Namespace) -> Any:
    """Return the models, images and attack budget that the parsed arguments ask for."""
    import torch

    from ..convert.load import load_whole
    from ..data import digits
    from ..data.benchmark_info import describe
    from ..data.load import load_benchmark
    from ..demo.page import Setup
    from ..evaluation.threat_model import ThreatModel
    from ..substitutes.embedded import EMBEDDED, synonym_table
    from ..substitutes.held_out import known_and_unseen

    dataset = load_benchmark(args.dataset, split="test", data_dir=args.data_dir)
    info = describe(dataset)
    if args.model:
        folders: Mapping[str, str | Path] = name_models(args.model)
        note = ""
    else:
        torch.set_num_threads(1)  # as in training: operations this small cost more to share than to do
        folders = default_models(args.cache_dir)
        note = "Here: a tiny CLIP on handwritten digits, and the same one after MMCoA training."
    table = synonym_table(args.dataset) if args.dataset in EMBEDDED else None
    return Setup(
        models={name: load_whole(folder) for name, folder in folders.items()},
        dataset=dataset,
        class_names=info.class_names,
        budget=ThreatModel.preset(
            "standard",
            epsilon=args.epsilon or (digits.EPSILON if args.dataset == "digits" else EPSILON),
            template=info.template,
        ),
        sources={} if table is None else dict(zip(("known", "unseen"), known_and_unseen(table), strict=True)),
        note=note,
    )


def name_models(given: Sequence[str]) -> dict[str, str]:
    """Return the models by name: the last part of a path, or the whole path if the last parts are equal.

    Raises:
        ValueError: if the same model is given twice.
    """
    if repeated := sorted({one for one in given if given.count(one) > 1}):
        raise ValueError(f"`--model` names {', '.join(repeated)} twice; compare two that differ.")
    short = [Path(one).name or one for one in given]
    return {one if short.count(name) > 1 else name: one for one, name in zip(given, short, strict=True)}


def default_models(cache_dir: str | Path | None = None, options: Sequence[str] = ()) -> dict[str, Path]:
    """Return the folders of the tiny CLIP on digits before and after training; train a model that is missing.

    Args:
        cache_dir: folder to keep them in; a folder beside the Hub's cache when None.
        options: options of `hf-mmcoa train` that change the training.
    """
    from huggingface_hub.constants import HF_HOME

    kept = Path(cache_dir or Path(HF_HOME) / "hf_mmcoa" / "demo") / "-".join([__version__, *options]).replace("/", "_")
    clean, robust = kept / "clean", kept / "robust"
    if not options and (DEFAULT_RUN / "model.safetensors").is_file():
        robust = DEFAULT_RUN
    if not (clean.is_dir() and robust.is_dir()):
        _train_default(clean, robust, options)
    return {"CLIP": clean, "CLIP after MMCoA": robust}


def _train_default(clean: Path, robust: Path, options: Sequence[str]) -> None:
    """Train and write the models that do not exist yet; a folder appears complete or not at all."""
    from ..data.digits import load_digits
    from ..substitutes.digits import SYNONYMS
    from ..substitutes.held_out import known_and_unseen
    from ..testbed.pretraining import pretrain_on_digits
    from ..training.trainer import MMCoATrainer
    from .train_arguments import parse

    clean.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=clean.parent, prefix=".training-") as scratch:
        run, args = parse(["--output_dir", f"{scratch}/run", *options])
        _say("pretraining a tiny CLIP on digits, without attack (half a minute)")
        model, processor = pretrain_on_digits(args, run.pretrain_epochs)
        if not clean.is_dir():
            model.save_pretrained(f"{scratch}/clean")
            processor.save_pretrained(f"{scratch}/clean")
            os.replace(f"{scratch}/clean", clean)
        if not robust.is_dir():
            _say("training it against image and text attacks (about a minute and a half)")
            known, _ = known_and_unseen(SYNONYMS)
            trainer = MMCoATrainer(model, args, load_digits("train"), processing_class=processor, candidates=known)
            trainer.train()
            trainer.save_model(f"{scratch}/robust")
            os.replace(f"{scratch}/robust", robust)
    _say(f"kept in {clean.parent}")


def _say(text: str) -> None:
    print(f"hf-mmcoa demo: {text}", file=sys.stderr, flush=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `hf-mmcoa demo`."""
    parser.add_argument(
        "--model",
        action="append",
        metavar="PATH_OR_ID",
        help="folder or Hub id of a CLIP, or robust:NAME; repeat for several",
    )
    parser.add_argument(
        "--dataset",
        default="digits",
        metavar="NAME_OR_PATH",
        help="data set whose images, class names and prompt are shown; digits without it",
    )
    parser.add_argument(
        "--data_dir", "--data-dir", metavar="FOLDER", help="folder that holds the data set's files already"
    )
    parser.add_argument(
        "--epsilon", help=f'initial radius of the image attack, such as "4/255"; 0.15 for digits, else {EPSILON}'
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 opens the page to other machines"
    )
    parser.add_argument("--port", type=int, help="port to listen on; the first free one from 7860 without it")
    parser.add_argument("--open", action="store_true", help="open the page in the browser")
    parser.add_argument(
        "--cache_dir",
        "--cache-dir",
        metavar="FOLDER",
        help="folder for the default models; beside the Hub's cache without it",
    )
