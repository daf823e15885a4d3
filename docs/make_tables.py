"""Write the tables of README and docs from the committed result files, between their markers; never by hand.

python docs/make_tables.py            # write
python docs/make_tables.py --check    # exit status 1 if a table is not what its results say (a test runs this)
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from hf_mmcoa.evaluation.table import describe, markdown_table

ROOT = Path(__file__).resolve().parents[1]
TABLES = {  # marker -> the page that shows docs/results/<marker>
    "digits": ROOT / "README.md",
    "fashion-mnist": ROOT / "docs" / "protocols.md",
}


def read(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Results by name, a list over seeds: of files with `before` and `after`, or of a protocol's cells by objective."""
    results: dict[str, list[dict[str, Any]]] = {}
    for file in sorted(folder.glob("seed-*.json")):
        for part, result in json.loads(file.read_text()).items():
            results.setdefault(part, []).append(result)
    for file in sorted(folder.glob("cells/*/result.json")):
        objective = "no defence" if "_none_" in file.parent.name else "MMCoA"
        results[objective] = [*results.get(objective, []), json.loads(file.read_text())]
    return dict(sorted(results.items(), key=lambda pair: pair[0] in ("after", "MMCoA")))


def table(name: str) -> str:
    """The table of docs/results/<name>, mean over its seeds, and the threat model that it holds under."""
    results = read(ROOT / "docs" / "results" / name)
    runs = next(iter(results.values()))
    first = runs[0]
    seeds = f"{len(runs)} seeds, 95% t-intervals over them" if len(runs) > 1 else "one seed, 95% Wilson intervals"
    note = f"{describe(first['attack_spec'])}. {first['num_samples']} test samples, {seeds}."
    return f"{markdown_table(results)}\n\n{note}"


def main() -> int:
    """Write every table, or only compare; returns the exit status."""
    stale = []
    for name, page in TABLES.items():
        text = page.read_text()
        pattern = rf"(<!-- table:{name} -->\n).*?(<!-- /table -->)"
        new = re.sub(pattern, lambda found, name=name: f"{found[1]}{table(name)}\n{found[2]}", text, flags=re.DOTALL)
        if new != text:
            stale.append(page.name)
            if "--check" not in sys.argv:
                page.write_text(new)
    if "--check" in sys.argv and stale:
        print(f"stale: {', '.join(stale)}; run python docs/make_tables.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
