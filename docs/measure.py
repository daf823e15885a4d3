"""Make every table of the README from nothing: run what it is made from, keep the result files, write the tables.

python docs/measure.py --dry-run          # print what would be run
python docs/measure.py                    # hours on two cores, no network; give it again after an interruption
python docs/measure.py --only digits      # one step; what has finished in output/measure is not run again
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from hf_mmcoa.io import read_json, write_json

ROOT = Path(__file__).resolve().parents[1]
WORK, RESULTS = Path("output/measure"), Path("docs/results")
SEEDS = (0, 1, 2)


@dataclass(frozen=True, kw_only=True)
class Step:
    """Commands and the result files that are kept of what they write.

    Args:
        name: for `--only`.
        tables: the markers in README and docs of the tables that are made from its results.
        commands: in turn; each with the file whose presence says that it has finished, or "" if it sees so itself.
        kept: patterns of files below `WORK`, and the folder or file below `RESULTS` that they are copied to.
    """

    name: str
    tables: tuple[str, ...]
    commands: tuple[tuple[str, str], ...]
    kept: tuple[tuple[str, str], ...]


def comparison(name: str, file: str, tables: tuple[str, ...], options: str = "--reference mmcoa") -> Step:
    """Return the step that runs a file of `examples/comparisons` and keeps its tables and results."""
    output = f"comparisons/{file}"
    return Step(
        name=name,
        tables=tables,
        commands=(("", f"hf-mmcoa compare examples/{output}.yaml --output {WORK}/{output} {options}"),),
        kept=tuple(
            (f"{output}/{files}", output) for files in ("comparison.*", "specification.json", "cells/*/result.json")
        ),
    )


def schedules(bed: str) -> Step:
    """Return the step that compares the schedules of the image attack on a bed."""
    name, tables = f"{bed}-schedules", (f"schedules-{bed}", f"schedules-{bed}-differences")
    return comparison(name, name, tables, "--reference pgd-10")


def rates(bed: str) -> Step:
    """Return the step that chose the learning rates of `<bed>.yaml`, on validation data; its table is kept alone."""
    name = f"{bed}-rates"
    return Step(
        name=name,
        tables=(),
        commands=(("", f"hf-mmcoa compare examples/comparisons/{name}.yaml --output {WORK}/{name} --choose"),),
        kept=((f"{name}/choice/comparison.*", name),),
    )


STEPS = (
    Step(
        name="digits",
        tables=("digits",),
        commands=tuple(
            (
                f"digits-{seed}/robustness.json",
                f"python examples/train_mmcoa.py --seed {seed} --output_dir {WORK}/digits-{seed}",
            )
            for seed in SEEDS
        ),
        kept=tuple((f"digits-{seed}/robustness.json", f"digits/seed-{seed}.json") for seed in SEEDS),
    ),
    rates("digits"),  # chose the learning rates of the next one
    comparison("objectives", "digits", ("objectives", "objectives-digits", "objectives-digits-differences")),
    comparison("words", "digits-words", ("words-digits", "words-digits-differences")),
    rates("pictograms"),
    comparison("pictograms-defended", "pictograms", ("objectives-pictograms", "objectives-pictograms-differences")),
    rates("pictograms-captions"),
    comparison("captions", "pictograms-captions", ("objectives-retrieval", "objectives-retrieval-differences")),
    schedules("digits"),
    schedules("pictograms"),
    Step(
        name="pictograms",  # the shipped CLIP, without training
        tables=("pictograms",),
        commands=(
            (
                "pictogram-clip/model.safetensors",
                "python -c 'from hf_mmcoa.testbed.pictogram_clip import pictogram_clip; "
                f'[part.save_pretrained("{WORK}/pictogram-clip") for part in pictogram_clip()]\'',
            ),
            *(
                (
                    "",
                    f"hf-mmcoa evaluate --model {WORK}/pictogram-clip --dataset pictograms-common pictograms "
                    f"pictograms-ood --split {design} --attacks clean --preset quick --output {WORK}/pictograms",
                )
                for design in ("fxemoji", "fluent-emoji-flat", "streamline-emojis")
            ),
        ),
        kept=(("pictograms/*.json", "pictograms"),),
    ),
    Step(
        name="no-training",  # needs the models of the first step
        tables=("no-training",),
        commands=(
            (
                "",
                f"python examples/no_training.py {' '.join(f'{WORK}/digits-{seed}' for seed in SEEDS)} "
                f"--output {WORK}/no-training",
            ),
        ),
        kept=(("no-training/*/seed-*.json", "no-training"),),
    ),
    # From here on `apt-get install dataset-fashion-mnist` is needed, for one sentence and no table of the README.
    rates("fashion-mnist"),
    comparison("fashion-mnist", "fashion-mnist", ("objectives-fashion-mnist", "objectives-fashion-mnist-differences")),
    comparison(
        "fashion-mnist-words", "fashion-mnist-words", ("words-fashion-mnist", "words-fashion-mnist-differences")
    ),
    schedules("fashion-mnist"),
)


def copies(pattern: str, target: str) -> list[tuple[Path, Path]]:
    """Return the files of a pattern and where each goes: one file to its new name, several with their folders."""
    if target.endswith(".json"):
        return [(WORK / pattern, RESULTS / target)]
    return [(file, RESULTS / target / file.relative_to(WORK / target)) for file in sorted(WORK.glob(pattern))]


def keep_result(source: Path, copy: Path) -> None:
    """Copy a cell's result without `witnesses`, the texts that misled each image: two thirds of it, in no table."""
    result = read_json(source)
    result.pop("witnesses", None)
    write_json(result, copy)


def run(step: Step, dry_run: bool) -> None:
    """Run a step, or print it; a command that fails ends the program."""
    made = f"makes {', '.join(step.tables)}" if step.tables else "chooses learning rates"
    print(f"# {step.name}: {made}", flush=True)
    for finished, command in step.commands:
        done = bool(finished) and (WORK / finished).exists()
        print(f"{command}{'  # done' if done else ''}", flush=True)
        if not done and not dry_run:
            words = [sys.executable if word == "python" else word for word in shlex.split(command)]
            subprocess.run(words, check=True)
    for pattern, target in step.kept:
        print(f"# keeps {WORK / pattern} in {RESULTS / target}", flush=True)
        for source, copy in () if dry_run else copies(pattern, target):
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.name == "result.json":
                keep_result(source, copy)
            else:
                shutil.copyfile(source, copy)


def main() -> None:
    """Run the steps that are asked for, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=[step.name for step in STEPS], nargs="+", help="these steps alone")
    parser.add_argument("--dry-run", action="store_true", help="print the commands")
    options = parser.parse_args()
    os.chdir(ROOT)
    for step in STEPS:
        if not options.only or step.name in options.only:
            run(step, options.dry_run)
    print("python docs/make_tables.py", flush=True)
    if not options.dry_run:
        subprocess.run([sys.executable, "docs/make_tables.py"], check=True)


if __name__ == "__main__":
    main()
