"""What an attack may do, in one object that training and evaluation share."""

from __future__ import annotations


def pixels(name: str, value: float | str | None) -> float:
    """A length in [0, 1] pixel units, from a number or from text such as "1/255"."""
    if value is None:
        raise ValueError(f'`{name}` must be a number or text such as "1/255", got None.')
    numerator, slash, denominator = str(value).partition("/")
    try:
        return float(numerator) / float(denominator) if slash else float(numerator)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f'`{name}` must be a number or text such as "1/255", got {value!r}.') from None
