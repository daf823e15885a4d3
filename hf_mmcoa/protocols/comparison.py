"""Compare methods under one specification: a table with paired tests and a plot from a protocol's cells.

A protocol's grid computes the cells; here they become rows, together with finished result files from elsewhere. Rows
under different specifications are refused: side by side they would be read as a comparison.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..evaluation.partial import header_differences
from ..evaluation.retrieval import load_retrieval
from ..evaluation.uncertainty import Repetition, difference_interval, in_words, paired_test
from ..io import differences, read_json, write_bytes, write_json, write_text
from ..report.charts import dot_chart
from ..report.load import is_retrieval, named_path, read_results, result_files
from ..report.table import Estimate, check_comparable, estimate_of_outcomes
from .cell import Cell, Method
from .cells import read_result, result_path
from .columns import column_labels, plotted_columns, samples_of, with_columns
from .grid import Failures, locked, run_cells
from .grid_table import CHART_FILE, comparison_table
from .protocol import RETRIEVAL, Protocol

SPECIFICATION_FILE = "specification.json"
SIGNIFICANT = 0.05
# Fields of a threat model that the evaluators resolve; the second line is what captions leave no choice in.
RESOLVED = ("template", "perturb_at", "candidates")
RESOLVED_ON_CAPTIONS = ("protect_template", "forbid_class_names", "skip_fallen", "text_adversaries", "families")


@dataclass(frozen=True, kw_only=True)
class Row:
    """The results of one method.

    Args:
        name: name of the method, or of the results in a file.
        results: for each seed and word split its result.
        files: for each of them the path of its result file.
        method: the method; None for result files from elsewhere.
    """

    name: str
    results: Mapping[Repetition, Mapping[str, Any]]
    files: Mapping[Repetition, str]
    method: Method | None = None

    @property
    def steps(self) -> list[int]:
        """Return the recorded numbers of gradient steps of its trainings."""
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
    """Compute every unfinished cell, then write `comparison.json`, `comparison.md` and `comparison.png`.

    Args:
        protocol: a protocol with one data set and one number of shots; its methods are the rows.
        output: folder of the comparison. The same folder resumes an interrupted run, also with further methods and
            seeds.
        processes: number of trainings at the same time.
        results: finished results as further rows: result files, folders of them, or protocols' folders; "NAME=PATH"
            names them. They are paired with the cells by their seeds.
        reference: name of the row that the others are tested against; the first method that trains when None.
        report: function that is called with one line of progress about each cell.

    Returns:
        The cells that failed, each with its error; the others are compared nevertheless.

    Raises:
        ValueError: if there are several data sets or numbers of shots, or if the folder or `results` belong to another
            specification.
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
    """Raise ValueError unless cells of one seed and word split differ only in their method."""
    data = protocol.datasets if protocol.train_on is None else protocol.evaluate_on
    for name, number in (("data set", len(data)), ("number of shots", len(protocol.shots))):
        if number > 1:
            raise ValueError(
                f"a comparison has one {name}, got {number}: make one comparison each, or run `hf-mmcoa protocol`."
            )


def specification(protocol: Protocol) -> dict[str, Any]:
    """Return what the rows of a comparison share, as JSON: all that affects a result but method, seed, word split."""
    clean = Method(name="clean", objective="clean")
    (cell,) = dataclasses.replace(protocol, objectives=(clean,), seeds=(0,), word_splits=(0,)).cells()
    shared: dict[str, Any] = json.loads(json.dumps(cell.settings))
    for part in (shared, shared["threat_model"], shared["model"]):
        if isinstance(part, dict):
            part.pop("seed", None)
    del shared["objective"]
    return shared


def check_specification(protocol: Protocol, output: Path) -> None:
    """Write the specification into a new folder; raise ValueError, naming the differences, if the folder has another.

    Every row and seed that is added later is measured under the same specification.
    """
    file = output / SPECIFICATION_FILE
    now = specification(protocol)
    then = read_json(file) if file.exists() else now
    if not isinstance(then, dict):
        raise ValueError(f"{file} holds a {type(then).__name__}, no specification: choose another folder.")
    if found := header_differences(then, now):
        raise ValueError(
            f"`output`: {output} belongs to another specification; then and now: {'; '.join(found)}. "
            "Choose another folder: rows under different specifications are no comparison."
        )
    write_json(now, file)


# Rows


def rows_of_cells(protocol: Protocol, output: Path, failures: Failures) -> list[Row]:
    """Return the finished cells by method, in the protocol's order."""
    found = []
    for method in protocol.objectives:
        cells = [cell for cell in finished_cells(protocol, output, failures) if cell.method == method]
        if cells:
            paths = {Repetition(cell.seed, cell.word_split): result_path(cell, output) for cell in cells}
            results = {repetition: read_result(path) for repetition, path in paths.items()}
            files = {repetition: str(path.relative_to(output)) for repetition, path in paths.items()}
            found.append(Row(name=method.name, results=results, files=files, method=method))
    return found


def finished_cells(protocol: Protocol, output: Path, failures: Failures) -> list[Cell]:
    """Return the cells that have a result and were not refused."""
    return [cell for cell in protocol.cells() if cell.name not in failures and result_path(cell, output).exists()]


def read_rows(given: Sequence[str], taken: Sequence[str]) -> list[Row]:
    """Read rows from finished result files; several results of one name are its seeds and word splits.

    Args:
        given: result files, folders of them, or folders of protocols or comparisons; each also as "NAME=PATH".
        taken: names of rows that exist already.

    Raises:
        ValueError: if there is no result, one is damaged, a name is taken, or a seed and word split occurs twice.
        FileNotFoundError: if there is no such file.
    """
    rows: dict[str, tuple[dict[Repetition, Mapping[str, Any]], dict[Repetition, str]]] = {}
    for one in given:
        name, path = named_path(one)
        files = sorted(path.glob("cells/*/result.json")) or result_files(path)
        found = [(_label(key, result), file, result) for file in files for key, result in _results_in(file).items()]
        several = len({label for label, _, _ in found}) > 1
        for label, file, result in found:
            row = label if name is None else f"{name}: {label}" if several else name
            results, places = rows.setdefault(row, ({}, {}))
            repetition = Repetition(result["seed"], (result.get("cell") or {}).get("word_split", 0))
            if row in taken or repetition in results:
                twice = f"has two results of seed {repetition}"
                problem = "is the name of another row" if row in taken else twice
                raise ValueError(f"`results`: {file}: {row!r} {problem}. Give it a name of its own: NAME={path}.")
            results[repetition], places[repetition] = result, str(file)
    return [Row(name=name, results=results, files=files) for name, (results, files) in rows.items()]


def _results_in(file: Path) -> dict[str, dict[str, Any]]:
    """Return the results in a file by their names in it, of either task; one of retrieval is alone and has no name."""
    return {"": load_retrieval(file)} if is_retrieval(file) else read_results(file)


def _label(key: str, result: Mapping[str, Any]) -> str:
    """Return what to call a result without a given name: its method, its name in its file, or its model."""
    cell = result.get("cell") or {}
    return str(cell.get("method") or cell.get("objective") or key or result.get("model"))


def _check_others(protocol: Protocol, others: Sequence[Row]) -> None:
    """Check given results as far as possible before any cell is computed."""
    results = [result for row in others for result in row.results.values()]
    if not results:
        return
    for row in others:
        for repetition, result in row.results.items():
            if (result.get("task") == RETRIEVAL) != (protocol.task == RETRIEVAL):
                theirs, ours = ("captions", "labels") if result.get("task") == RETRIEVAL else ("labels", "captions")
                raise ValueError(
                    f"`results`: {row.files[repetition]} was measured on {theirs}, this comparison on {ours}. Measure "
                    f"it by `hf-mmcoa evaluate{' --task retrieval' if ours == 'captions' else ''}`, or leave it out."
                )
    check_comparable(results)
    left_out = ("seed", *RESOLVED, *(RESOLVED_ON_CAPTIONS if protocol.task == RETRIEVAL else ()))
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
    """Write `comparison.json`, `comparison.md` and, if any cell is finished, `comparison.png`."""
    rows = [*rows_of_cells(protocol, output, failures), *others]
    numbers = {
        "name": protocol.name,
        "description": protocol.description,
        "specification": specification(protocol),
        "not_read": {method.name: unread for method in protocol.objectives if (unread := protocol.unread(method))},
        **compare_rows(rows, reference),
        "failed": failures,
    }
    write_json(numbers, output / "comparison.json")
    finished = [(cell, read_result(result_path(cell, output))) for cell in finished_cells(protocol, output, failures)]
    write_text(comparison_table(protocol, numbers, finished, failures), output / "comparison.md")
    if rows:
        write_bytes(comparison_chart(numbers), output / CHART_FILE)


def compare_rows(rows: Sequence[Row], reference: str | None = None) -> dict[str, Any]:
    """Return the accuracies of every row with intervals, and paired tests, as JSON.

    Args:
        rows: rows with at least one result each.
        reference: name of the row that the others are tested against; when None the first that trains, else the first.

    Returns:
        `columns`: label of each accuracy. `methods`: for each name its `objective`, `settings`, `seeds`, `word_splits`,
        `files`, `steps` and `accuracies`, which hold for each column `value`, `low` and `high` (95%), the `count` of
        independent results, what these are `over`, `by_seed` and, with several word splits, `by_word_split`, each the
        mean over the other. `reference`: its name. `tests`: for each name and column what `compare_with` returns.
        `best`: for each column the best row, the runner-up, their test and whether the difference is `significant`.
        `versions`: version of each library.

    Raises:
        ValueError: if two results differ in more than method, seed and word split; the message says in what.
    """
    if not rows:
        return {"columns": {}, "methods": {}, "reference": None, "tests": {}, "best": {}, "versions": {}}
    rows = [
        dataclasses.replace(row, results={each: with_columns(row.results[each]) for each in sorted(row.results)})
        for row in rows
    ]
    results = [result for row in rows for result in row.results.values()]
    _check_same_conditions(rows)
    if len(pictures := {result.get("fingerprints", {}).get("data") for result in results}) > 1:
        raise ValueError(f"the results are of different pictures: data fingerprints {', '.join(map(str, pictures))}.")
    columns = column_labels(results)
    trained = [row.name for row in rows if row.method is None or row.method.trains]
    named = {row.name: row for row in rows}
    against = named.get(reference if reference is not None else (trained or list(named))[0])
    tests = {
        row.name: {column: compare_with(row, against, column) for column in columns}
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


def _check_same_conditions(rows: Sequence[Row]) -> None:
    """Raise ValueError unless all results share threat model and data, and those of one word split their words."""
    of_split: dict[int, list[Mapping[str, Any]]] = {}
    for row in rows:
        for (_, word_split), result in row.results.items():
            of_split.setdefault(word_split, []).append(result)
    for results in of_split.values():
        check_comparable(results)
    check_comparable(
        [
            {**results[0], "attack_spec": {**results[0]["attack_spec"], "candidates": "of each word split"}}
            for results in of_split.values()
        ]
    )


def compare_with(row: Row, reference: Row, column: str) -> dict[str, Any] | None:
    """Compare a row with a reference on the same samples, seeds and word splits; return None if they share none.

    Args:
        row: row to test, its results as `with_columns` returns them.
        reference: row to test against, likewise.
        column: name of an accuracy.

    Returns:
        `seeds` and `word_splits`: those that both rows have. `difference`: row minus reference, mean over these;
        `difference_interval`: its 95% interval and `interval_over` what that generalises over, "seeds and classes".
        `pairs`: number of samples of all these seeds, and word splits where words decide, together; `only_method` and
        `only_reference`: how many of them only one row classifies correctly; `p_value`, `test` and what it is `over`:
        of the paired test on these, in which the samples of a class, or a sample under all seeds, change sides
        together. With one word split the test is about these trained models, the interval about the method; with
        several, where words decide, both are about the method.
    """
    both = sorted(set(row.results) & set(reference.results))
    shared = [(row.results[each], reference.results[each]) for each in both]
    if not both or any(column not in result for pair in shared for result in pair):
        return None
    measured = [[samples_of(pair[side], column) for pair in shared] for side in (0, 1)]
    ours, theirs = ([each.outcome for each in side] for side in measured)
    labels, over = measured[0][0].clusters, measured[0][0].over
    found = paired_test(ours, theirs, labels, over, both)
    interval = difference_interval(theirs, ours, labels, over, both)
    return {
        "seeds": _seeds(both),
        "word_splits": _word_splits(both),
        "difference": interval.estimate,
        "difference_interval": [interval.low, interval.high],
        "interval_over": in_words(interval.generalises_over),
        "pairs": found.pairs,
        "only_method": found.only_first,
        "only_reference": found.only_second,
        "p_value": found.p_value,
        "test": found.test,
        "over": found.over,
    }


def _seeds(repetitions: Iterable[Repetition]) -> list[int]:
    return sorted({each.seed for each in repetitions})


def _word_splits(repetitions: Iterable[Repetition]) -> list[int]:
    return sorted({each.word_split for each in repetitions})


def comparison_chart(numbers: Mapping[str, Any], dark: bool = False) -> bytes:
    """Draw the numbers of `compare_rows` as PNG: methods by their worst case, a dot with its interval per threat."""
    columns = plotted_columns(numbers["columns"])
    points = {
        name: {
            drawn: Estimate(**{each.name: found[column][each.name] for each in dataclasses.fields(Estimate)})
            for column, drawn in columns.items()
            if column in (found := method["accuracies"])
        }
        for name, method in numbers["methods"].items()
    }
    return dot_chart(points, {drawn: numbers["columns"][column] for column, drawn in columns.items()}, dark)


def _estimate_of(row: Row, column: str) -> Estimate:
    measured = [samples_of(result, column) for result in row.results.values()]
    first, values = measured[0], [result[column] for result in row.results.values()]
    outcomes = [each.outcome for each in measured]
    return estimate_of_outcomes(outcomes, first.clusters, first.over, list(row.results), values)


def _row(row: Row, columns: Mapping[str, str]) -> dict[str, Any]:
    word_splits = _word_splits(row.results)
    found: dict[str, Any] = {}
    for column in columns:
        if all(column in result for result in row.results.values()):
            found[column] = {**asdict(_estimate_of(row, column)), "by_seed": _means(row, column, "seed")}
            if len(word_splits) > 1:
                found[column]["by_word_split"] = _means(row, column, "word_split")
    return {
        "objective": row.method.objective if row.method else None,
        "settings": dict(row.method.settings) if row.method else None,
        "seeds": _seeds(row.results),
        "word_splits": word_splits,
        "files": {str(each): row.files[each] for each in row.results},
        "steps": row.steps,
        "accuracies": found,
    }


def _means(row: Row, column: str, level: str) -> dict[str, float]:
    """Return the accuracy of each seed or of each word split, mean over the other."""
    values: dict[str, list[float]] = {}
    for repetition, result in row.results.items():
        values.setdefault(str(getattr(repetition, level)), []).append(result[column])
    return {name: statistics.fmean(each) for name, each in values.items()}


def _best(rows: Sequence[Row], column: str) -> dict[str, Any] | None:
    """Return the best row of a column, the runner-up and their test.

    The difference is significant only if the samples or classes say so and, where there are several seeds, the seeds
    too: many samples of a few lucky seeds prove nothing about a method.
    """
    ranked = sorted(
        (row for row in rows if all(column in result for result in row.results.values())),
        key=lambda row: -statistics.fmean(result[column] for result in row.results.values()),
    )
    if len(ranked) < 2:
        return None
    test = compare_with(ranked[0], ranked[1], column)
    significant = bool(test and test["p_value"] < SIGNIFICANT and test["difference_interval"][0] > 0)
    return {"method": ranked[0].name, "runner_up": ranked[1].name, "significant": significant, "test": test}


def _versions(results: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return the version of each library; all of them where results were measured with several."""
    found: dict[str, list[str]] = {}
    for result in results:
        for library, version in result["versions"].items():
            if version not in found.setdefault(library, []):
                found[library].append(version)
    return {library: " and ".join(map(str, versions)) for library, versions in found.items()}
