"""How figures are written: the same in every table and picture."""

from __future__ import annotations

from veridical.evals.statistics import Estimate

MISSING = "–"
MINUS = "\u2212"


def number(value: float | None, percent: bool = False, *, places: int = 1) -> str:
    """A value, times 100 where it is a share, with a real minus sign."""
    if value is None:
        return MISSING
    shown = f"{100 * value if percent else value:,.{places}f}"
    return shown.replace("-", MINUS) if float(shown.replace(",", "")) else shown.lstrip("-")


def decimals(percent: bool) -> int:
    """One place in percent, else three."""
    return 1 if percent else 3


def value(estimate: float | None, percent: bool) -> str:
    """A score."""
    return number(estimate, percent, places=decimals(percent))


def percent_points(difference: float | None, percent: bool = True) -> str:
    """A difference, with its sign."""
    shown = value(difference, percent)
    return shown if difference is None or difference <= 0 or not shown.strip("0.,") else f"+{shown}"


def axis_number(tick: float, percent: bool, *, signed: bool = False) -> str:
    """A round number beside an axis, with no more places than it has."""
    shown = f"{100 * tick if percent else tick:.4g}"
    plus = "+" if signed and tick > 0 else ""
    return MINUS + shown[1:] if shown.startswith("-") else plus + shown


def interval(estimate: Estimate, percent: bool, *, signed: bool = False) -> str:
    """` [low, high]`, nothing where there is none."""
    if estimate.low is None or estimate.high is None:
        return ""
    write = percent_points if signed else value
    return f" [{write(estimate.low, percent)}, {write(estimate.high, percent)}]"


def estimated(found: Estimate, percent: bool) -> str:
    """A score and its interval."""
    return value(found.value, percent) + interval(found, percent)


def p_value(p: float | None) -> str:
    """Three places, or that it is below them."""
    return MISSING if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def shortened(text: str, length: int) -> str:
    """For pictures only, where the number in front tells strategies apart; tables have it in full."""
    return text if len(text) <= length else text[: length - 1] + "…"
