"""Numbers in the cells of reports."""

MISSING = "–"


def format_number(value: float | None) -> str:
    """Format with two decimals; "–" for a missing number."""
    return MISSING if value is None else f"{value:.2f}"


def format_difference(value: float | None) -> str:
    """Format with a sign and two decimals; "–" for a missing number."""
    # Adding 0 turns a rounded -0.0 into 0.0.
    return MISSING if value is None else f"{round(value, 2) + 0:+.2f}"
