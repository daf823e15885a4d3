"""Write the tables of README and docs from the committed result files and rows, between their markers; not by hand.

python docs/make_tables.py            # write
python docs/make_tables.py --check    # exit status 1 if a table is not what its results say (a test runs this)
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hf_mmcoa.convert.robust_clips import robust_clips
from hf_mmcoa.evaluation.clusters import cluster_interval
from hf_mmcoa.evaluation.defended_results import LABELS, load_defended
from hf_mmcoa.evaluation.results import load_result, upgraded
from hf_mmcoa.evaluation.uncertainty import accuracy_interval, unit
from hf_mmcoa.protocols.cells import read_result
from hf_mmcoa.protocols.columns import of_recalls
from hf_mmcoa.protocols.grid_table import accuracy_table, difference_table
from hf_mmcoa.report.conditions import attacks_texts, describe, interval_sentence, measured_kinds, recall_sentence
from hf_mmcoa.report.defence_table import describe_defended
from hf_mmcoa.report.markdown import Verbatim, markdown_lines
from hf_mmcoa.report.table import accuracy_estimate, markdown_table
from hf_mmcoa.report.task_table import percent_cell

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results"


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Results by name, a list over seeds: of files with `before` and `after`, or of a protocol's cells by objective."""
    results: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("seed-*.json")):
        for part, result in json.loads(file.read_text()).items():
            results.setdefault(part, []).append(upgraded(result))
    for file in sorted(folder.glob("cells/*/result.json")):
        objective = "no defence" if "_none_" in file.parent.name else "MMCoA"
        results[objective] = [*results.get(objective, []), load_result(file)]
    return dict(sorted(results.items(), key=lambda pair: pair[0] in ("after", "MMCoA")))


def table(name: str) -> str:
    """The table of docs/results/<name>, mean over its seeds, and the threat model that it holds under."""
    results = read(RESULTS / name)
    runs = next(iter(results.values()))
    first = runs[0]
    seeds = f"{len(runs)} seeds" if len(runs) > 1 else "one seed"
    intervals = interval_sentence(averaged=len(runs) > 1, texts=attacks_texts(runs))
    threats = describe(first["attack_spec"], measured=measured_kinds(first))
    note = f"{threats}. {first['num_samples']} test samples, {seeds}. {intervals}"
    return f"{markdown_table(results)}\n\n{note}"


def severities(name: str) -> str:
    """The accuracies of docs/results/<name> beyond balls, mean over its seeds, by severity where there are any."""
    runs = [*read(RESULTS / name).items()]
    first = runs[0][1][0]

    def mean(key: str) -> list[str]:
        return [f"{100 * statistics.mean(run[key] for run in each):.1f}" if key in first else "-" for _, each in runs]

    rows = []
    for key in (key for key in first if key.startswith("attacks/beyond/")):
        name = key.removeprefix("attacks/")
        columns = [mean(key), *(mean(f"{name}/{degree}") for degree in (1, 3, 5))]
        rows.append([name.removeprefix("beyond/"), *(" / ".join(cells) for cells in zip(*columns, strict=True))])
    heads = ["worst / severity 1 / 3 / 5", *(which for which, _ in runs)]
    return "\n".join(markdown_lines(heads, rows))


def shares(name: str) -> str:
    """The numbers of docs/results/<name>.json, written by an example, by column: the mean over its runs."""
    runs = json.loads((RESULTS / f"{name}.json").read_text())
    keys = next(iter(runs.values()))[0]
    rows = [[key, *(f"{statistics.mean(run[key] for run in each):.3f}" for each in runs.values())] for key in keys]
    return "\n".join(markdown_lines(["", *(f"{name} tower" for name in runs)], rows))


def compared(name: str, columns: Sequence[str] = (), methods: Sequence[str] = ()) -> str:
    """The table of docs/results/comparisons/<name>, and what it holds under; arguments as of `accuracy_table`."""
    numbers = numbers_of(name)
    return f"{accuracy_table(numbers, columns, methods)}\n\n{conditions(name, numbers)}"


def differences(name: str, columns: Sequence[str] = (), methods: Sequence[str] = ()) -> str:
    """Paired tests of docs/results/comparisons/<name> against its reference row."""
    return difference_table(numbers_of(name), columns, methods)


def numbers_of(name: str) -> dict[str, Any]:
    """What `hf-mmcoa compare` wrote; a test holds it to the result files beside it."""
    numbers: dict[str, Any] = json.loads((RESULTS / "comparisons" / name / "comparison.json").read_text())
    return numbers


def was_and_is(name: str, methods: Sequence[str]) -> str:
    """What each text number was, under the blind adversary and the image attacks of that time, and what it is."""
    numbers, before = numbers_of(name), json.loads((RESULTS / "blind.json").read_text())[name]
    column_of = {label: column for column, label in numbers["columns"].items()}

    def now(method: str, label: str) -> str:
        found = numbers["methods"][method]["accuracies"].get(column_of.get(label, ""))
        return "-" if found is None else f"{100 * found['value']:.1f}"

    rows = []
    for method in methods:
        for label, value in before[method].items():
            kind, _, blind = label.partition(", ")
            labels = [f"{kind}, {name}" for name in ("shared", "own", "all")] if blind else ["", label, ""]
            rows.append([f"{method}: {kind}", f"{100 * value:.1f}", *(now(method, each) for each in labels)])
    return "\n".join(markdown_lines(["number", "was (blind)", "shared", "own", "all"], rows))


BEDS = {"digits-words": "digits", "fashion-mnist": "Fashion-MNIST", "pictograms": "pictograms"}


def beds() -> str:
    """Whether words that no training saw mean anything on each bed: the undefended model, the mean over its results."""
    rows = []
    for name, bed in BEDS.items():
        files = sorted((RESULTS / "comparisons" / name).glob("cells/*_none_*/result.json"))
        runs = [load_result(file) for file in files]
        numbers = (
            [1 / len(run["class_names"]) for run in runs],
            [run["clean_accuracy"] for run in runs],
            [run["average_case"]["text/words:unseen"] for run in runs],
            [run["text_own_unseen_accuracy"] for run in runs],
            [run["text_all_unseen_accuracy"] for run in runs],
        )
        rows.append([bed, str(len(runs)), *(f"{100 * statistics.mean(each):.1f}" for each in numbers)])
    heads = ["bed", "results", "chance", "clean", "an unseen word at random", "the worst, own", "the worst, all"]
    return "\n".join(markdown_lines(heads, rows))


NO_TRAINING = {
    "clean": "attacks/clean",
    "words (known), all": "attacks/text/words/all",
    "certified, all": "certified/text/words/all",
    "a word (unseen), mean": "mean_word/text/words:unseen",
    "words (unseen), own": "attacks/text/words/own:unseen",
    "words (unseen), all": "attacks/text/words/all:unseen",
    "certified (unseen), own": "certified/text/words/own:unseen",
    "characters, own": "attacks/text/characters/own",
}
DEFENCES_ALONE = (
    "alone",
    "spelling",
    "spelling and centroid",
    "spelling and public centroid",
    "template ensemble",
    "synonym ensemble",
    "smoothing",
)


def no_training() -> str:
    """The rows of docs/results/no-training: two models, each behind every defence that needs no training."""
    rows, results = [], []
    for when, shown in (("before", "before"), ("after", "after (MMCoA)")):
        for name in DEFENCES_ALONE:
            files = sorted((RESULTS / "no-training" / f"{when}-{name}".replace(" ", "-")).glob("seed-*.json"))
            results = [load_result(file) for file in files]
            label = shown if name == "alone" else f"{shown}, {name}"
            rows.append([label, *(Verbatim(no_training_cell(results, field)) for field in NO_TRAINING.values())])
    table = "\n".join(markdown_lines(["", *NO_TRAINING], rows))
    first = results[0]
    threats = describe(first["attack_spec"], measured=measured_kinds(first))
    note = f"{threats}. {first['num_samples']} test samples, {len(results)} seeds."
    return f"{table}\n\n{note} {interval_sentence(averaged=len(results) > 1)}"


def no_training_cell(results: Sequence[dict[str, Any]], field: str) -> str:
    """The mean of one column over the seeds, with its interval; a dash where the row has no such number."""
    kind, _, name = field.partition("/")
    found: Any
    if any(field not in result if kind == "attacks" else name not in result.get(kind, {}) for result in results):
        return "-"
    labels = results[0]["labels"]
    if kind == "attacks":
        found = accuracy_estimate(results, field)
        mean = found.value
    elif kind == "certified":
        found = accuracy_interval([result[kind][name] for result in results], labels, unit([name]))
        mean = found.estimate
    else:
        seeds = [result["training_seed"] for result in results for _ in labels]
        values = [value for result in results for value in result[kind][name]]
        found = cluster_interval(values, {"seeds": seeds, "classes": labels * len(results)})
        mean = found.estimate
    return f"{100 * mean:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def conditions(name: str, numbers: dict[str, Any]) -> str:
    """The threat model of a comparison, its samples, its training, and what the intervals generalise over."""
    methods = numbers["methods"].values()
    file = next(file for method in methods for file in method["files"].values())
    result = read_result(RESULTS / "comparisons" / name / file)
    seeds = " or ".join(str(number) for number in sorted({len(method["seeds"]) for method in methods}))
    splits = max(len(method.get("word_splits", [0])) for method in methods)
    steps = " or ".join(str(number) for number in sorted({number for method in methods for number in method["steps"]}))
    alike = not any("num_steps" in (method["settings"] or {}) for method in methods)
    training = numbers["specification"]["training"]
    fast = training.get("attack_schedule") == "fast"
    attack = (
        "the fast schedule" if fast else f"PGD-{training['num_steps']}" if alike and "num_steps" in training else ""
    )
    repeated = f"{seeds} seed{'' if seeds == '1' else 's'}" + (f", {splits} word splits" if splits > 1 else "")
    averaged = seeds != "1"
    intervals = (
        recall_sentence(averaged)
        if of_recalls(numbers["columns"])
        else interval_sentence(averaged=averaged, split_words=splits > 1, texts=attacks_texts([result]))
    )
    return (
        f"{describe(result['attack_spec'], measured=measured_kinds(result))}. {result['num_samples']} test samples, "
        f"{repeated}; {steps} gradient "
        f"steps{f' with {attack}' if attack else ''}. {intervals}"
    )


def known_robust_clips() -> str:
    """The rows of robust_clips.yaml: where each lies, its form, and what could not be read anywhere."""
    rows = []
    for row in robust_clips():
        trained = f"{row.method}, L∞ {row.epsilon}" + (f"; text: {row.text_training}" if row.text_training else "")
        where = f"[file]({row.url})" if row.url else f"`{row.hub_id}`" + (f", `{row.file}`" if row.file else "")
        accuracies = ", ".join(
            " / ".join(f"{100 * value:.1f}" for value in (one.clean, *one.robust.values()))
            + f" ({', '.join(('clean', *(epsilon.removesuffix('/255') for epsilon in one.robust)))})"
            for one in row.published
        )
        form = f"{row.layout}, {row.activation}" if not row.refused else f"{row.layout}: **refused**"
        base = f"`{row.base}`" if row.base else "-"
        open_facts = ", ".join(row.unverified)
        rows.append([f"`{row.name}`", where, form, base, trained, row.licence, accuracies or "-", open_facts or "-"])
    headings = ["name", "from", "form", "base", "trained with", "licence", "published", "not verified"]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ["---"] * len(headings), *rows))


def shift(folder: str) -> str:
    """Clean accuracy of one model by data set and split: what a designer, and a concept, that no training saw costs."""
    rows = []
    for file in sorted((RESULTS / folder).glob("*.json")):
        result = load_result(file)
        dataset, _, split = result["dataset"].partition("/")
        numbers = [result["clean_accuracy"], *result["clean_accuracy_interval"], 1 / len(result["class_names"])]
        value, low, high, chance = (f"{100 * number:.1f}" for number in numbers)
        rows.append([dataset, split, str(result["num_samples"]), value, f"{low} to {high}", chance])
    return "\n".join(markdown_lines(["data", "design", "pictures", "clean accuracy", "95% interval", "chance"], rows))


TEST_TIME_MODELS = ("pretrained", "mmcoa")


def test_time() -> str:
    """The table of docs/results/test-time, a row for each model and defence, and how they were attacked."""
    found = [
        result
        for model in TEST_TIME_MODELS
        for file in sorted((RESULTS / "test-time").glob(f"{model}-*.json"))
        for result in [load_defended(file)]
    ]
    rows = [[one["model"], one["defence"], *(Verbatim(percent_cell(one, name)) for name in LABELS)] for one in found]
    header = ["model", "defence", *LABELS.values()]
    conditions: dict[str, list[str]] = {}
    for one in found:
        held = conditions.setdefault(f"{one['num_samples']} test samples; {describe_defended(one)}", [])
        held.append(one["defence"].partition("(")[0])
    notes = [f"{', '.join(dict.fromkeys(names))}: {condition}." for condition, names in conditions.items()]
    lines = markdown_lines(header, rows, ["left", "left", *["right"] * len(LABELS)])
    return "\n".join([*lines, "", *notes])


README, DEFENCES = ROOT / "README.md", ROOT / "docs" / "defences.md"
FORMER = ("none", "clean", "tecoa", "fare", "pmg-aft", "tga-zsr", "leaf", "fare+leaf", "mmcoa")
OBJECTIVES = (*FORMER[:-1], "advflyp", "saft", "qt-aft", "agft", "mmcoa", "mmcoa-own", "mmcoa-all")
DIFFERENT = ("clean", "image", "text (unseen), own", "text (unseen), all", "multimodal (known), own")
SHORT = (
    "clean", "image", "text (known), own", "text (known), all", "text (unseen), own", "text (unseen), all",
    "multimodal (known), own", "multimodal (known), all", "worst case",
)  # fmt: skip
LAB = (
    "clean", "image", "words (known), own", "words (known), all", "words (unseen), own", "words (unseen), all",
    "characters, own", "characters, all", "text embedding", "worst case",
)  # fmt: skip
BLIND_LAB = (
    "clean", "image", "words (known), blind", "words (unseen), blind", "characters, blind", "text embedding",
    "text, worst", "multimodal (known), blind", "multimodal (unseen), blind", "worst case",
)  # fmt: skip
RECALLS = tuple(
    f"{threat}, {direction} R@1"
    for threat in ("clean", "image", "text (known)", "text (unseen)", "worst case")
    for direction in ("image to text", "text to image")
)
FAULTS = ("mmcoa-class", "mmcoa-accumulated", "mmcoa-misaligned", "mmcoa-embedding")
FAULTED = (
    "clean",
    "image",
    "text (known), blind",
    "text embedding",
    "text, worst",
    "multimodal (known), blind",
    "worst case",
)
FORMS = ("mmcoa-mixed-distilled", "mmcoa-general")

SCHEDULED = (
    "clean", "image", "text (known), own", "text (known), all", "text (unseen), own", "multimodal (known), own",
    "multimodal (known), all", "worst case",
)  # fmt: skip
UNSEEN = (
    "clean",
    "text (known), own",
    "text (known), all",
    "text (unseen), shared",
    "text (unseen), own",
    "text (unseen), all",
)
ATTACKS, LLAVA = ROOT / "docs" / "attacks.md", ROOT / "docs" / "howto" / "llava.md"
TABLES: dict[str, tuple[Path, Callable[[], str]]] = {  # marker -> its page and what stands there
    "beyond": (ATTACKS, partial(table, "beyond")),
    "beyond-severities": (ATTACKS, partial(severities, "beyond")),
    "llava": (LLAVA, partial(shares, "llava")),
    "test-time": (ROOT / "docs" / "test-time.md", test_time),
    "digits": (README, partial(table, "digits")),
    "pictograms": (ROOT / "docs" / "data.md", partial(shift, "pictograms")),
    "pictograms-robust": (ROOT / "docs" / "data.md", partial(table, "pictograms-robust")),
    "fashion-mnist": (ROOT / "docs" / "protocols.md", partial(table, "fashion-mnist")),
    "objectives": (README, partial(compared, "digits", SHORT, OBJECTIVES)),
    "objectives-digits": (
        DEFENCES,
        partial(compared, "digits", (*SHORT[:-1], "text embedding", "worst case")),
    ),
    "objectives-digits-differences": (DEFENCES, partial(differences, "digits", DIFFERENT)),
    "objectives-captions": (DEFENCES, partial(compared, "digits-captions", SHORT)),
    "beds": (ROOT / "docs" / "comparison.md", beds),
    "objectives-fashion-mnist": (
        DEFENCES,
        partial(compared, "fashion-mnist", (*SHORT[:-1], "text embedding", "worst case")),
    ),
    "objectives-fashion-mnist-differences": (DEFENCES, partial(differences, "fashion-mnist", DIFFERENT)),
    "objectives-pictograms": (
        DEFENCES,
        partial(compared, "pictograms", (*SHORT[:-1], "text embedding", "worst case")),
    ),
    "objectives-pictograms-differences": (DEFENCES, partial(differences, "pictograms", DIFFERENT)),
    "objectives-fashion-mnist-captions": (DEFENCES, partial(compared, "fashion-mnist-captions")),
    "objectives-retrieval": (DEFENCES, partial(compared, "pictograms-captions", RECALLS)),
    "objectives-retrieval-differences": (DEFENCES, partial(differences, "pictograms-captions", RECALLS)),
    "forms-digits": (DEFENCES, partial(compared, "digits-lab", LAB)),
    "forms-fashion-mnist": (DEFENCES, partial(compared, "fashion-mnist-lab", BLIND_LAB)),
    "forms-digits-differences": (DEFENCES, partial(differences, "digits-lab", LAB, FORMS)),
    "forms-fashion-mnist-differences": (DEFENCES, partial(differences, "fashion-mnist-lab", BLIND_LAB, FORMS)),
    "text-was-and-is-digits": (DEFENCES, partial(was_and_is, "digits-captions", FORMER)),
    "text-was-and-is-lab": (DEFENCES, partial(was_and_is, "digits-lab", ("none", "mmcoa", *FORMS))),
    "words-digits": (DEFENCES, partial(compared, "digits-words", UNSEEN)),
    "words-digits-differences": (
        DEFENCES,
        partial(differences, "digits-words", UNSEEN, ("none", "mmcoa-all", "mmcoa-own")),
    ),
    "words-fashion-mnist": (DEFENCES, partial(compared, "fashion-mnist-words", UNSEEN)),
    "words-fashion-mnist-differences": (
        DEFENCES,
        partial(differences, "fashion-mnist-words", UNSEEN, ("none", "mmcoa-all", "mmcoa-own")),
    ),
    **{
        f"schedules-{bed}": (DEFENCES, partial(compared, f"{bed}-schedules", SCHEDULED))
        for bed in ("digits", "fashion-mnist", "pictograms")
    },
    **{
        f"schedules-{bed}-differences": (DEFENCES, partial(differences, f"{bed}-schedules", SCHEDULED))
        for bed in ("digits", "fashion-mnist", "pictograms")
    },
    "no-training": (DEFENCES, no_training),
    "faults-digits": (DEFENCES, partial(differences, "digits-faults", FAULTED, FAULTS)),
    "robust-clips": (ROOT / "docs" / "convert.md", known_robust_clips),
    "faults-fashion-mnist": (DEFENCES, partial(differences, "fashion-mnist-captions", FAULTED, ("mmcoa-accumulated",))),
}


def main() -> int:
    """Write every table, or only compare; returns the exit status."""
    stale = []
    for name, (page, make) in TABLES.items():
        text = page.read_text()
        made = f"<!-- table:{name} -->\n{make()}\n<!-- /table -->"
        parts = re.split(rf"<!-- table:{name} -->\n.*?<!-- /table -->", text, flags=re.DOTALL)
        places, new = len(parts) - 1, made.join(parts)
        if places != 1:
            raise SystemExit(f"{page.name} has {places} places for a table, `<!-- table:{name} -->`; one is wanted.")
        if new != text:
            stale.append(f"{page.name} ({name})")
            if "--check" not in sys.argv:
                page.write_text(new)
    if "--check" in sys.argv and stale:
        print(f"stale: {', '.join(stale)}; run python docs/make_tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
