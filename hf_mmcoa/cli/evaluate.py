"""`hf-mmcoa evaluate`: a CLIP and a data set in, one result file and one table out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..data.load import load_benchmark
from ..evaluation.evaluator import evaluate_robustness
from ..evaluation.prepare import ATTACKS
from ..evaluation.retrieval import evaluate_retrieval, retrieval_table
from ..evaluation.sanity import failed
from ..evaluation.threat_model import IMAGE_ATTACKS, MULTIMODAL_ATTACKS, PRESETS, TEXT_ATTACKS, ThreatModel
from ..io import printable
from ..models.encoder import load_clip
from ..report.gallery import attack_gallery, gallery_path, save_gallery
from ..report.table import robustness_table
from ..substitutes.embedded import EMBEDDED, synonym_table
from ..substitutes.held_out import known_and_unseen
from ..substitutes.named import candidate_source
from ..substitutes.source import CandidateSource
from .launch import start_missing_processes

SANITY_FAILED = 3

HELP = "accuracy of a CLIP, clean and under attack"
DESCRIPTION = """\
Measure the zero-shot accuracy of a CLIP, clean and under image, text and multimodal attack. An interrupted run goes on
where it was when the same command is given again. With --task retrieval: recall at 1, 5 and 10 between images and
captions, clean and under attack, in one process and without resuming.

exit status: 0 if all sanity checks passed, 3 if one failed (the numbers are printed and written all the same),
2 for a wrong argument, 1 for any other error
"""

# What a preset says and a single option may change; help texts say unit and range.
_OVERRIDES: dict[str, dict[str, Any]] = {
    "norm": {"choices": ["linf", "l2"], "help": "norm of the image perturbation"},
    "epsilon": {"help": 'its radius in pixels of [0, 1], e.g. 0.0157 or "4/255"'},
    "step_size": {
        "help": "of the image attack, in the unit of epsilon; 2.5 * epsilon / num_steps when a preset names none"
    },
    "num_steps": {"type": int, "help": "gradient steps of the image attack"},
    "restarts": {"type": int, "help": "random starts of the image attack"},
    "image_attacks": {
        "nargs": "+",
        "metavar": "NAME",
        "choices": IMAGE_ATTACKS,
        "help": f"of {', '.join(IMAGE_ATTACKS)}",
    },
    "text_attacks": {"nargs": "+", "metavar": "NAME", "choices": TEXT_ATTACKS, "help": f"of {', '.join(TEXT_ATTACKS)}"},
    "multimodal_attacks": {
        "nargs": "+",
        "metavar": "NAME",
        "choices": MULTIMODAL_ATTACKS,
        "help": f"of {', '.join(MULTIMODAL_ATTACKS)}",
    },
    "temperature": {"help": '"logit_scale" (the model\'s) or a number, inside the attacked loss'},
    "perturb_at": {"choices": ["auto", "native", "model"], "help": "resolution that the budget applies at"},
    "template": {"help": "the evaluator's prompt, with one {}; the benchmark's when not given"},
    "attacker_template": {"help": "the prompt that image attacks are run against; the evaluator's when not given"},
    "num_candidates": {"type": int, "help": "substitutes tried per word"},
    "max_changes": {"type": int, "help": "words changed per prompt"},
    "max_edits": {"type": int, "help": "characters changed per prompt"},
    "rho": {"type": float, "help": "radius of the embedding attack, in mean norms of the token table"},
    "num_text_steps": {"type": int, "help": "gradient steps of the embedding attack"},
    "seed": {"type": int, "help": "of the random starts"},
}


def run(args: argparse.Namespace) -> int:
    """Evaluate as the parsed arguments say, print the table and the failed sanity checks; returns the exit status."""
    if (status := start_missing_processes(sys.argv[1:])) is not None:
        return status
    try:
        _check_task(args)
        spec = threat_model(args)
        accelerator = Accelerator(cpu=args.cpu or not torch.accelerator.is_available())
        model, processor = load_clip(args.model)
        dataset = load_benchmark(args.dataset, split=args.split, data_dir=args.data_dir, text_column=args.text_column)
        given = substitutes(args.candidates, model, processor)
        options: dict[str, Any] = {
            "attacks": args.attacks,
            "threat_model": spec,
            "candidates": given,
            "batch_size": args.batch_size,
            "max_samples": args.max_samples,
            "output": args.output,
            "overwrite": args.overwrite,
            "progress": not args.quiet,
            "model_name": args.model,
        }
        if args.task == "retrieval":
            if accelerator.num_processes > 1:
                raise ValueError("`--task retrieval` runs in one process; start it without `accelerate launch`.")
            result = evaluate_retrieval(model.to(accelerator.device), processor, dataset, **options)
        else:
            result = evaluate_robustness(
                model, processor, dataset, accelerator=accelerator, sanity=not args.no_sanity, **options
            )
        if args.gallery and accelerator.is_main_process:
            models = {Path(args.model).name: (model, processor)}
            gallery = attack_gallery(models, dataset, spec, candidates=given, num_samples=args.gallery)
            save_gallery(gallery, gallery_path(args.output))
    except (ValueError, TypeError, OSError, ImportError, LookupError) as error:
        print(f"hf-mmcoa evaluate: {printable(str(error))}", file=sys.stderr)
        return 1
    accelerator.end_training()  # else the first process to exit may pull the rug from under the others
    findings = failed(result["sanity"])
    if accelerator.is_main_process:
        retrieval = args.task == "retrieval"
        print(retrieval_table(result) if retrieval else robustness_table({Path(args.model).name: result}))
        for finding in findings:
            print(f"sanity check failed: {finding['check']}: {printable(finding['detail'])}", file=sys.stderr)
        if args.output:
            print(
                f"\n{args.output}: {result['num_samples']} samples of {result['dataset']}, threat model {args.preset}"
            )
    return SANITY_FAILED if findings else 0


def _check_task(args: argparse.Namespace) -> None:
    if args.gallery is None:
        return
    if args.task == "retrieval":
        raise ValueError("`--gallery` shows attacked class prompts: it belongs to `--task zero-shot`.")
    if args.gallery < 1 or args.output is None:
        raise ValueError("`--gallery` needs at least 1 sample, and `--output`: it is written beside the result.")


def threat_model(args: argparse.Namespace) -> ThreatModel:
    """The preset with the options that were given."""
    overrides = {name: getattr(args, name) for name in _OVERRIDES if getattr(args, name) is not None}
    if "temperature" in overrides and overrides["temperature"] != "logit_scale":
        overrides["temperature"] = float(overrides["temperature"])
    return ThreatModel.preset(args.preset, **overrides)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `hf-mmcoa evaluate`."""
    parser.add_argument(
        "--model", required=True, metavar="PATH_OR_ID", help="folder or Hub id of a CLIPModel with its processor"
    )
    parser.add_argument(
        "--task",
        choices=["zero-shot", "retrieval"],
        default="zero-shot",
        help="what is measured; captions for retrieval",
    )
    parser.add_argument("--output", metavar="FILE", help="JSON result; without it the numbers are only printed")
    parser.add_argument("--overwrite", action="store_true", help="replace another evaluation's result in --output")
    parser.add_argument(
        "--gallery", type=int, metavar="N", help="also store N attacked samples beside --output, for the report to show"
    )
    parser.add_argument(
        "--text_column", "--text-column", metavar="NAME", help="captions; needed beside labels or with an unusual name"
    )
    add_measurement_arguments(parser)


def add_measurement_arguments(parser: argparse.ArgumentParser) -> None:
    """What is measured on which data under which threat model: options of every command that evaluates."""
    parser.add_argument(
        "--dataset", required=True, metavar="NAME_OR_PATH", help="a registered benchmark, a Hub id or a folder"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument("--data_dir", "--data-dir", metavar="FOLDER", help="where the data set's files lie already")
    parser.add_argument(
        "--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS), metavar="KIND", help=f"of {', '.join(ATTACKS)}"
    )
    parser.add_argument(
        "--preset", choices=list(PRESETS), default="standard", help="threat model; single options change it"
    )
    parser.add_argument(
        "--candidates",
        nargs="+",
        metavar="SOURCE",
        help="substitutes of the text attack: neighbours, masked-lm, hotflip, wordnet, digits (the embedded table, its "
        'known and unseen half), or a JSON file {"word": ["substitute", ...]}; several as NAME=SOURCE, the first of '
        "which is the threat model's",
    )
    parser.add_argument("--batch_size", "--batch-size", type=int, default=128, help="images per unit of work")
    parser.add_argument("--max_samples", "--max-samples", type=int, help="evaluate on so many rows only, drawn once")
    parser.add_argument("--no_sanity", "--no-sanity", action="store_true", help="leave out the sanity checks")
    parser.add_argument("--cpu", action="store_true", help="use no accelerator")
    parser.add_argument("--quiet", action="store_true", help="show no progress bar")
    group = parser.add_argument_group("threat model (defaults are the preset's)")
    for name, options in _OVERRIDES.items():
        spellings = [f"--{name}"] + ([f"--{name.replace('_', '-')}"] if "_" in name else [])
        group.add_argument(*spellings, dest=name, default=None, **options)


def substitutes(
    given: Sequence[str] | None, model: Any, processor: Any
) -> CandidateSource | Mapping[str, CandidateSource] | None:
    """What `--candidates` names, built of a model where the source needs one."""
    if given is None:
        return None
    if len(given) == 1 and given[0] in EMBEDDED and (table := synonym_table(given[0])):
        return dict(zip(("known", "unseen"), known_and_unseen(table), strict=True))
    pairs = [one.partition("=") if "=" in one else ("", "", one) for one in given]
    if len(pairs) > 1 and any(not name for name, _, _ in pairs):
        raise ValueError(
            f"`--candidates` with several sources needs a name for each, as NAME=SOURCE, got {' '.join(given)}."
        )
    sources = {name: _candidate_source(source, model, processor) for name, _, source in pairs}
    return sources.get("", sources)


def _candidate_source(source: str, model: Any, processor: Any) -> CandidateSource:
    if (table := synonym_table(source)) is not None:
        return table
    return candidate_source(source, model, processor.tokenizer)
