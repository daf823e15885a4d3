"""The table of a protocol: a row per data set, shots and objective, averaged over seeds; all numbers are results'."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.sanity import failed
from ..evaluation.table import Estimate, accuracies, describe, escape_markdown, estimate
from .specification import Cell, Protocol, shots_name

Finished = Sequence[tuple[Cell, Mapping[str, Any]]]


def protocol_table(protocol: Protocol, finished: Finished, failures: Mapping[str, str]) -> str:
    """Markdown: the table, the mean over data sets, what the numbers hold under, and the cells that are missing."""
    lines = [f"# {escape_markdown(protocol.name)}", ""]
    if protocol.description:
        lines += [protocol.description.strip(), ""]
    if finished:
        lines += [*_table(protocol, finished), "", *_specification(protocol, finished), ""]
    missing = [cell.name for cell in protocol.cells() if cell.name not in {done.name for done, _ in finished}]
    if missing:
        lines += ["Missing cells:", ""]
        lines += [f"- {name}: {escape_markdown(failures.get(name, 'not run yet'))}" for name in missing]
    return "\n".join(lines).rstrip() + "\n"


def _table(protocol: Protocol, finished: Finished) -> list[str]:
    labels = accuracies([result for _, result in finished])
    rows: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for cell, result in finished:
        key = (cell.data.name, shots_name(cell.shots) if cell.train_on else "-", _defence(cell))
        rows.setdefault(key, []).append(result)
    head = ["data set", "shots", "defence", "seeds", *labels.values()]
    lines = ["| " + " | ".join(head) + " |", "|---|---|---|---:" + "|---:" * len(labels) + "|"]
    means: dict[tuple[str, str], list[dict[str, float]]] = {}
    for (data, shots, defence), results in rows.items():
        numbers = {name: estimate(results, name) for name in labels if all(name in one for one in results)}
        cells = [_cell(numbers[name]) if name in numbers else "-" for name in labels]
        lines.append(f"| {' | '.join([data, shots, defence, str(len(results)), *cells])} |")
        means.setdefault((shots, defence), []).append({name: one.value for name, one in numbers.items()})
    number = len({data for data, _, _ in rows})
    for (shots, defence), values in means.items():
        if number > 1 and len(values) == number:  # a mean over some of the data sets would compare unlike things
            cells = [
                f"{100 * statistics.fmean(one[name] for one in values):.1f}" if all(name in v for v in values) else "-"
                for name in labels
            ]
            lines.append(f"| mean of {number} | {shots} | {defence} | | {' | '.join(cells)} |")
    return lines


def _cell(number: Estimate) -> str:
    return f"{100 * number.value:.1f} [{100 * number.low:.1f}, {100 * number.high:.1f}]"


def _defence(cell: Cell) -> str:
    return "none" if cell.train_on is None else cell.objective


def _specification(protocol: Protocol, finished: Finished) -> list[str]:
    """What every number needs beside it (METHODS, section 7)."""
    lines = [
        "Accuracy in percent with its 95% interval: Student's t over seeds, Wilson's for one seed. Image, text and "
        "multimodal are the worst case per sample over that kind's attacks.",
        "",
    ]
    seen: dict[str, Mapping[str, Any]] = {}
    for cell, result in finished:
        seen.setdefault(cell.data.name, result)
    for name, result in seen.items():
        spec = result["attack_spec"]
        lines.append(
            f"- {name}: {result['num_samples']} test images of {escape_markdown(str(result['dataset']))}; "
            f"{describe(spec)}; budget at {spec['perturb_at']} size; prompt `{spec['template']}`."
        )
    trained = {cell.objective: cell for cell, _ in finished if cell.train_on is not None}
    if trained:
        settings = ", ".join(f"{key} {value}" for key, value in protocol.training.items())
        lines.append(f"- training: {escape_markdown(settings or 'defaults of MMCoAConfig')}.")
    if protocol.tiny is not None:
        settings = ", ".join(f"{key} {value}" for key, value in protocol.tiny.items())
        lines.append(f"- model: a tiny CLIP, pretrained without attack on captions of the training split ({settings}).")
    else:
        lines.append(f"- model: {escape_markdown(str(protocol.model))}.")
    versions = next(iter(seen.values()))["versions"]
    lines.append(f"- versions: {', '.join(f'{library} {version}' for library, version in versions.items())}.")
    for cell, result in finished:
        lines += [f"- {cell.name}: sanity check failed: {one['check']}." for one in failed(result["sanity"])]
    return lines
