"""What a check of the sanity battery found: `{"check", "passed", "detail"}`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Finding = dict[str, Any]

TOLERANCE = 1  # samples: two attacks on different paths may differ by one
SHARE = 0.01  # of many samples


def finding(check: str, passed: bool | None, detail: str) -> Finding:
    """Return a finding; `passed` is None where a check could not be run."""
    return {"check": check, "passed": passed, "detail": detail}


def failed(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that say that a number cannot be trusted."""
    return [finding for finding in findings if finding["passed"] is False]


def allowance(samples: int) -> int:
    """Return by how many of so many samples two sound attacks may differ."""
    return max(TOLERANCE, int(SHARE * samples))
