"""Hand-made results: ten samples, outcomes written out, and numbers computed from them by the evaluator's rules."""

from __future__ import annotations

from typing import Any

from hf_mmcoa.evaluation.attack_names import worst_case_attacks, worst_outcome
from hf_mmcoa.evaluation.results import FORMAT
from hf_mmcoa.evaluation.threat_model import ThreatModel
from hf_mmcoa.evaluation.uncertainty import interval_fields

OUTCOMES = {
    "clean": "1111111110",
    "image/pgd-ce": "1111000000",
    "text/words/all": "1111110000",
    "multimodal/independent/all": "1100000000",
}
SPEC = {"epsilon": 0.1, "candidates": "SynonymTable(3 words)", "text_adversaries": ("all",)}
PASSED = {"check": "inside the ball", "passed": True, "detail": "largest perturbation 0.1 of 0.1"}


def make_result(
    outcomes: dict[str, str] | None = None, *, model: str = "before", seed: int = 0, **changes: Any
) -> dict[str, Any]:
    """A complete result; `changes` that name a field of the threat model go there, others into the result."""
    outcomes = outcomes or OUTCOMES
    spec_changes = {name: value for name, value in changes.items() if name in ThreatModel.__dataclass_fields__}
    spec = ThreatModel(**{**SPEC, "seed": seed, **spec_changes})
    total = len(outcomes["clean"])
    labels = changes.get("labels", [row % 2 for row in range(total)])
    result: dict[str, Any] = {}
    for name, attacks in worst_case_attacks(list(outcomes)).items():
        outcome = worst_outcome({"outcomes": outcomes}, attacks)
        result[name] = outcome.count("1") / total
        result |= interval_fields(name, outcome, labels, attacks)
    result |= {f"attacks/{name}": outcome.count("1") / total for name, outcome in outcomes.items()}
    result |= {
        "format": FORMAT,
        "model": model,
        "dataset": "squares/test",
        "attack_spec": spec.to_dict(),
        "num_samples": total,
        "seed": seed,
        "fingerprints": {"specification": spec.fingerprint(), "model": f"weights of {model} {seed}", "data": "squares"},
        "versions": {"python": "3.11", "torch": "2.13.0"},
        "sanity": [PASSED],
        "class_names": ["cat", "dog"],
        "prompts": ["a photo of a cat", "a photo of a dog"],
        "adv_prompts": {"text/words/all": ["a photo of a feline", "a photo of a hound"]},
        "row_ids": list(range(total)),
        "labels": labels,
        "outcomes": outcomes,
    }
    return {**result, **{name: value for name, value in changes.items() if name not in spec_changes}}
