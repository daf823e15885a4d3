"""Methods against each other under one specification: a protocol's cells to one table with paired tests and one plot.

A protocol's grid computes the cells; here they become rows, joined by finished result files of anybody's. Rows under
different specifications are refused: side by side they would be read as a comparison.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.partial import header_differences
from ..evaluation.results import load_result, worst_cases, worst_outcome
from ..evaluation.statistics import mcnemar, mean_interval, wilson_interval
from ..io import differences, read_json, write_bytes, write_json, write_text
from ..report.charts import dot_chart
from ..report.load import named_path, read_results, result_files
from ..report.table import Estimate, accuracies, check_comparable, estimate
from .cells import result_path
from .grid import Failures, locked, run_cells
from .grid_table import CHART_FILE, comparison_table
from .protocol import Cell, Method, Protocol

SPECIFICATION_FILE = "specification.json"
WORST_TEXT = "worst_text_accuracy"  # no `text_...`: that would be the accuracy of a source named "worst"
SIGNIFICANT = 0.05
RESOLVED = ("template", "perturb_at", "candidates")  # fields of a threat model that the evaluator writes itself
PLOTTED = ("clean_accuracy", "image_accuracy", "text", "multimodal", "worst_case_accuracy")


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method's results.

    Args:
        name: of the method, or of what a result file holds.
        results: seed -> result.
        files: seed -> where it lies.
        method: None for result files from elsewhere.
    """

    name: str
    results: Mapping[int, Mapping[str, Any]]
    files: Mapping[int, str]
    method: Method | None = None

    @property
    def steps(self) -> list[int]:
        """The numbers of gradient steps that its trainings took, where they are recorded."""
        trained = [one["training"] for one in self.results.values() if isinstance(one.get("training"), Mapping)]
        return sorted({one["steps"] for one in trained if "steps" in one})


def run_comparison(
    protocol: Protocol,
    output: str | Path,
    processes: int = 1,
    *,
    results: Sequence[str] = (),
    reference: str | None = None,
    report: Callable[[str], None] = print,
) -> Failures:
    """Compute every cell that is not finished, then write `comparison.json`, `comparison.md` and `comparison.png`.

    Args:
        protocol: one data set and one number of shots; its methods are the rows.
        output: its folder; the same one again goes on where an interrupted run was, also with further methods and
            seeds.
        processes: trainings at once.
        results: finished results as further rows: a result file, a folder of them, or a protocol's folder; as
            "NAME=PATH" with a name of their own. Their seeds are paired with equal seeds.
        reference: the row that the others are tested against; the first method that trains when None.
        report: is told about each cell.

    Returns:
        The cells that failed, each with its error; the others are compared all the same.

    Raises:
        ValueError: if there are several data sets or numbers of shots, the folder was begun under another
            specification, or results were measured under another one.
    """
    check_is_comparison(protocol)
    others = read_rows(results, [method.name for method in protocol.objectives])
    names = [*(method.name for method in protocol.objectives), *(row.name for row in others)]
    if reference is not None and reference not in names:
        raise ValueError(f"`reference` must be one of the rows, {', '.join(names)}; got {reference!r}.")
    _check_others(protocol, others)
    output = Path(output)
    with locked(output):
        check_specification(protocol, output)
        failures = run_cells(protocol, output, processes, report)
        write_comparison(protocol, output, failures, others, reference)
        return failures


def check_is_comparison(protocol: Protocol) -> None:
    """Raise ValueError unless all cells of a seed differ in their method alone."""
    data = protocol.datasets if protocol.train_on is None else protocol.evaluate_on
    for name, number in (("data set", len(data)), ("number of shots", len(protocol.shots))):
        if number > 1:
            raise ValueError(
                f"a comparison has one {name}, got {number}: make one comparison each, or run `hf-mmcoa protocol`."
            )


def specification(protocol: Protocol) -> dict[str, Any]:
    """All that the rows of a comparison share, as JSON: everything that decides a result but method and seed."""
    clean = Method(name="clean", objective="clean")
    (cell,) = dataclasses.replace(protocol, objectives=(clean,), seeds=(0,)).cells()
    shared: dict[str, Any] = json.loads(json.dumps(cell.settings))
    for part in (shared, shared["threat_model"], shared["model"]):
        if isinstance(part, dict):
            part.pop("seed", None)
    del shared["objective"]
    return shared


def check_specification(protocol: Protocol, output: Path) -> None:
    """Write the specification into a new folder; raise ValueError, naming what differs, if it was begun under another.

    Every row and seed that is added later is measured under the first one's.
    """
    file = output / SPECIFICATION_FILE
    now = specification(protocol)
    then = read_json(file) if file.exists() else now
    if not isinstance(then, dict):
        raise ValueError(f"{file} holds a {type(then).__name__}, no specification: choose another folder.")
    if found := header_differences(then, now):
        raise ValueError(
            f"`output`: {output} was begun under another specification; then and now: {'; '.join(found)}. "
            "Choose another folder: rows under different specifications are no comparison."
        )
    write_json(now, file)


# Rows


def rows_of_cells(protocol: Protocol, output: Path, failures: Failures) -> list[Row]:
    """The finished cells by method, in the protocol's order."""
    found = []
    for method in protocol.objectives:
        cells = [cell for cell in finished_cells(protocol, output, failures) if cell.method == method]
        if cells:
            results = {cell.seed: load_result(result_path(cell, output)) for cell in cells}
            files = {cell.seed: str(result_path(cell, output).relative_to(output)) for cell in cells}
            found.append(Row(name=method.name, results=results, files=files, method=method))
    return found


def finished_cells(protocol: Protocol, output: Path, failures: Failures) -> list[Cell]:
    """Cells with a result, which were not refused."""
    return [cell for cell in protocol.cells() if cell.name not in failures and result_path(cell, output).exists()]


def read_rows(given: Sequence[str], taken: Sequence[str]) -> list[Row]:
    """Rows of finished result files; several results of one name are its seeds.

    Args:
        given: files, folders of result files, folders of protocols or comparisons; each also as "NAME=PATH".
        taken: names of rows that are there already.

    Raises:
        ValueError: if there is no result, one is damaged, a name is taken, or a seed is there twice.
        FileNotFoundError: if there is no such file.
    """
    rows: dict[str, tuple[dict[int, Mapping[str, Any]], dict[int, str]]] = {}
    for one in given:
        name, path = named_path(one)
        files = sorted(path.glob("cells/*/result.json")) or result_files(path)
        found = [(_label(key, result), file, result) for file in files for key, result in read_results(file).items()]
        several = len({label for label, _, _ in found}) > 1
        for label, file, result in found:
            row = label if name is None else f"{name}: {label}" if several else name
            results, places = rows.setdefault(row, ({}, {}))
            if row in taken or result["seed"] in results:
                problem = "is the name of another row" if row in taken else f"has two results of seed {result['seed']}"
                raise ValueError(f"`results`: {file}: {row!r} {problem}. Give it a name of its own: NAME={path}.")
            results[result["seed"]], places[result["seed"]] = result, str(file)
    return [Row(name=name, results=results, files=files) for name, (results, files) in rows.items()]


def _label(key: str, result: Mapping[str, Any]) -> str:
    """What a result is called that nobody has named: its method, its name in its file, or its model."""
    cell = result.get("cell") or {}
    return str(cell.get("method") or cell.get("objective") or key or result.get("model"))


def _check_others(protocol: Protocol, others: Sequence[Row]) -> None:
    """What can be known of other results before anything is computed; the rest is checked when the cells are there."""
    results = [result for row in others for result in row.results.values()]
    if not results:
        return
    check_comparable(results)
    left_out = ("seed", *RESOLVED)
    then, now = (
        {key: value for key, value in spec.items() if key not in left_out}
        for spec in (results[0]["attack_spec"], protocol.attack_spec(0).to_dict())
    )
    if found := differences(then, now):
        raise ValueError(
            f"`results`: measured under another specification than this comparison's; theirs and ours: "
            f"{'; '.join(found)}. Measure them again, or compare under theirs."
        )


# Numbers


def write_comparison(
    protocol: Protocol, output: Path, failures: Failures, others: Sequence[Row] = (), reference: str | None = None
) -> None:
    """`comparison.json`, `comparison.md` and, if anything is finished, `comparison.png`."""
    rows = [*rows_of_cells(protocol, output, failures), *others]
    numbers = {
        "name": protocol.name,
        "description": protocol.description,
        "specification": specification(protocol),
        **compare_rows(rows, reference),
        "failed": failures,
    }
    write_json(numbers, output / "comparison.json")
    finished = [(cell, load_result(result_path(cell, output))) for cell in finished_cells(protocol, output, failures)]
    write_text(comparison_table(protocol, numbers, finished, failures), output / "comparison.md")
    if rows:
        write_bytes(comparison_chart(numbers), output / CHART_FILE)


def compare_rows(rows: Sequence[Row], reference: str | None = None) -> dict[str, Any]:
    """Accuracies of every row with intervals, and paired tests, as JSON.

    Args:
        rows: at least one result each.
        reference: the row that the others are tested against; the first that trains when None, else the first.

    Returns:
        `columns`: accuracy -> label. `methods`: name -> `objective`, `settings`, `seeds`, `files`, `steps` and
        `accuracies`, for each column its `value`, `low` and `high` (95%, over seeds) and `by_seed`. `reference`, and
        `tests`: name -> column -> `paired_test` against it. `best`: column -> the best row, the runner-up, their test
        and whether the difference is `significant`. `versions`.

    Raises:
        ValueError: if two results differ in more than method and seed; the text says in what.
    """
    if not rows:
        return {"columns": {}, "methods": {}, "reference": None, "tests": {}, "best": {}, "versions": {}}
    rows = [
        dataclasses.replace(row, results={seed: with_text_attacks(row.results[seed]) for seed in sorted(row.results)})
        for row in rows
    ]
    results = [result for row in rows for result in row.results.values()]
    check_comparable(results)
    if len(pictures := {result.get("fingerprints", {}).get("data") for result in results}) > 1:
        raise ValueError(f"the results are of different pictures: data fingerprints {', '.join(map(str, pictures))}.")
    columns = _columns(results)
    trained = [row.name for row in rows if row.method is None or row.method.trains]
    named = {row.name: row for row in rows}
    against = named.get(reference if reference is not None else (trained or list(named))[0])
    tests = {
        row.name: {column: paired_test(row, against, column) for column in columns}
        for row in rows
        if against is not None and row is not against
    }
    return {
        "columns": columns,
        "methods": {row.name: _row(row, columns) for row in rows},
        "reference": against.name if against else None,
        "tests": tests,
        "best": {column: found for column in columns if (found := _best(rows, column))},
        "versions": _versions(results),
    }


def with_text_attacks(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with `worst_text_accuracy`: per sample over every attack on the text alone, all sources of words,
    characters and embeddings; and, where a text accuracy is the worst over words and characters, each of them alone as
    `attacks/<name>`. Of fewer than two such attacks there is no worst case to speak of.
    """
    added = [WORST_TEXT, *_single_texts(result)] if len(_texts(result)) > 1 else []
    found = dict(result)
    for name in added:
        stands, total = worst_outcome(result, _attacks(result)[name]).count("1"), result["num_samples"]
        found |= {name: stands / total, f"{name}_interval": wilson_interval(stands, total)}
    return found


def paired_test(row: Row, reference: Row, column: str) -> dict[str, Any] | None:
    """A row against another, on the same samples and seeds; None where they share none.

    Args:
        row: results `with_text_attacks`.
        reference: likewise.
        column: an accuracy.

    Returns:
        `seeds` that both have; `difference`, row minus reference, the mean over them, and `difference_interval`, its
        95% t-interval (None for one seed); `pairs`, the samples of all these seeds together, of which `only_method` and
        `only_reference` stand for one alone, and the exact McNemar `p_value` of those. A sample counts once a seed:
        the test is about these trained models, the interval about the method.
    """
    seeds = sorted(set(row.results) & set(reference.results))
    shared = [(row.results[seed], reference.results[seed]) for seed in seeds]
    if not seeds or any(column not in result for pair in shared for result in pair):
        return None
    only_method = only_reference = pairs = 0
    for own, other in shared:
        a, b = (worst_outcome(result, _attacks(result)[column]) for result in (own, other))
        only_method += sum(x > y for x, y in zip(a, b, strict=True))
        only_reference += sum(x < y for x, y in zip(a, b, strict=True))
        pairs += len(a)
    gains = [own[column] - other[column] for own, other in shared]
    return {
        "seeds": seeds,
        "difference": sum(gains) / len(gains),
        "difference_interval": mean_interval(gains) if len(gains) > 1 else None,
        "pairs": pairs,
        "only_method": only_method,
        "only_reference": only_reference,
        "p_value": mcnemar(only_method, only_reference),
    }


def comparison_chart(numbers: Mapping[str, Any], dark: bool = False) -> bytes:
    """The plot of `compare_rows`' numbers as PNG: the methods by their worst case, a dot with interval a threat."""
    columns = [name for name in numbers["columns"] if name.startswith(PLOTTED)]
    points = {
        name: {column: _estimate(found) for column, found in method["accuracies"].items() if column in columns}
        for name, method in numbers["methods"].items()
    }
    return dot_chart(points, {column: numbers["columns"][column] for column in columns}, dark)


def _estimate(found: Mapping[str, Any]) -> Estimate:
    return Estimate(**{each.name: found[each.name] for each in dataclasses.fields(Estimate)})


def _attacks(result: Mapping[str, Any]) -> dict[str, list[str]]:
    single = {name: ["clean", name.removeprefix("attacks/")] for name in _single_texts(result)}
    return {**worst_cases(result), WORST_TEXT: ["clean", *_texts(result)], **single}


def _texts(result: Mapping[str, Any]) -> list[str]:
    return [name for name in result["outcomes"] if name.startswith("text/")]


def _single_texts(result: Mapping[str, Any]) -> list[str]:
    """Text attacks that have no column of their own, where characters are attacked beside words."""
    texts = _texts(result)
    return [f"attacks/{name}" for name in texts if name != "text/embedding"] if "text/characters" in texts else []


def _columns(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Accuracies in reading order with their labels: single text attacks before all texts, the worst text after."""
    labels = accuracies(results)
    if labels.pop(WORST_TEXT, None) is None:
        return labels
    names, single = list(labels), list(dict.fromkeys(name for each in results for name in _single_texts(each)))
    texts = [names.index(name) for name in names if name.startswith(("text", "embedding"))]
    order = [*names[: min(texts)], *single, *names[min(texts) : max(texts) + 1], WORST_TEXT, *names[max(texts) + 1 :]]
    known = {**labels, WORST_TEXT: "text, worst"}
    return {name: known.get(name) or _single_label(name, labels) for name in order}


def _single_label(name: str, labels: Mapping[str, str]) -> str:
    """ "words (unseen)" of "attacks/text/words:unseen"; the first source is called as it is in the text's column."""
    kind, _, source = name.removeprefix("attacks/text/").partition(":")
    if kind == "characters":
        return kind
    return f"{kind} ({source})" if source else labels["text_accuracy"].replace("text", kind, 1)


def _row(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    results = list(row.results.values())
    found: dict[str, Any] = {}
    for column in columns:
        if all(column in result for result in results):
            by_seed = {str(seed): result[column] for seed, result in row.results.items()}
            found[column] = {**asdict(estimate(results, column)), "by_seed": by_seed}
    return {
        "objective": row.method.objective if row.method else None,
        "settings": dict(row.method.settings) if row.method else None,
        "seeds": list(row.results),
        "files": {str(seed): row.files[seed] for seed in row.results},
        "steps": row.steps,
        "accuracies": found,
    }


def _best(rows: Sequence[Row], column: str) -> dict[str, Any] | None:
    """The best row of a column and the runner-up. The difference counts as significant only if the samples say so, and
    the seeds too where there are several: many samples of a few lucky seeds prove nothing about a method.
    """
    ranked = sorted(
        (row for row in rows if all(column in result for result in row.results.values())),
        key=lambda row: -estimate(list(row.results.values()), column).value,
    )
    if len(ranked) < 2:
        return None
    test = paired_test(ranked[0], ranked[1], column)
    interval = test["difference_interval"] if test else None
    significant = bool(test and test["p_value"] < SIGNIFICANT and (interval is None or interval[0] > 0))
    return {"method": ranked[0].name, "runner_up": ranked[1].name, "significant": significant, "test": test}


def _versions(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Library -> version; all of them where results were measured with several."""
    found: dict[str, list[str]] = {}
    for result in results:
        for library, version in result["versions"].items():
            if version not in found.setdefault(library, []):
                found[library].append(version)
    return {library: " and ".join(map(str, versions)) for library, versions in found.items()}
