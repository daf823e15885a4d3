"""Write the excerpt of a model card in docs/publish.md from committed result files; never by hand.

python docs/make_card_excerpt.py            # write
python docs/make_card_excerpt.py --check    # exit status 1 if it is not what the results say (a test runs this)
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import yaml

from hf_mmcoa.hub.card import card_of
from hf_mmcoa.hub.measurements import Measurements, Section
from hf_mmcoa.hub.model_folder import Checkpoint
from hf_mmcoa.report.load import read_results

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "publish.md"
SHOWN_METRICS = 2


def excerpt() -> str:
    """The head, the table and the limits of the card of the digits' first seed."""
    results = read_results(DOCS / "results" / "digits" / "seed-0.json")
    checkpoint = Checkpoint(
        folder=Path("robust-digits"), config={"model_type": "clip"}, is_adapter=False, arguments={"dataset": "digits"}
    )
    measured = Measurements(sections=[Section(columns=results, own="after")])
    card = card_of(checkpoint, measured, repo_id="you/robust-digits")
    metadata = card.data.to_dict()
    metrics = metadata["model-index"][0]["results"][0]["metrics"]
    left_out = len(metrics) - SHOWN_METRICS
    del metrics[SHOWN_METRICS:]
    head = yaml.safe_dump(metadata, sort_keys=False)
    body = card.text.split("## How robust it is")[1].split("## Training")[0]
    quoted = re.sub(
        "^(?=.)", "> ", re.sub("^#+ (.*)$", r"**\1**", body.strip(), flags=re.MULTILINE), flags=re.MULTILINE
    )
    quoted = quoted.replace("\n\n", "\n>\n")
    return f"```yaml\n{head}    # and {left_out} more\n```\n\n{quoted}"


def main() -> int:
    """Write the excerpt, or only compare; returns the exit status."""
    text = PAGE.read_text()
    pattern = r"(<!-- excerpt -->\n).*?(<!-- /excerpt -->)"
    new = re.sub(pattern, lambda found: f"{found[1]}{excerpt()}\n{found[2]}", text, flags=re.DOTALL)
    if new == text:
        return 0
    if "--check" in sys.argv:
        print(f"stale: {PAGE.name}; run python docs/make_card_excerpt.py")
        return 1
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
