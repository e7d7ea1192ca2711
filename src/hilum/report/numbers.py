"""How every number of the report is written, in one place."""

from __future__ import annotations

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
THIN = "\N{NARROW NO-BREAK SPACE}"
NARROW = 0.02


def score(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return a score with its interval; bounds get a third digit where the interval is narrow.

    >>> score(0.9117, 0.88, 0.94)
    '0.912 [0.88, 0.94]'
    >>> score(None)
    '–'
    """
    if value is None:
        return NONE
    if low is None or high is None:
        return f"{value:.3f}"
    digits = 3 if high - low < NARROW else 2
    return f"{value:.3f} [{low:.{digits}f}, {high:.{digits}f}]"


def difference(value: float | None, low: float | None = None, high: float | None = None) -> str:
    """Return a signed difference with its interval.

    >>> difference(-0.0141, -0.03, 0.002)
    '−0.014 [−0.030, +0.002]'
    """
    if value is None:
        return NONE
    if low is None or high is None:
        return _signed(value)
    return f"{_signed(value)} [{_signed(low)}, {_signed(high)}]"


def _signed(value: float) -> str:
    text = f"{abs(value):.3f}"
    if float(text) == 0:
        return text
    return f"{MINUS if value < 0 else '+'}{text}"


def count(value: float | None) -> str:
    """Return a whole number with thin spaces between thousands.

    >>> count(4722).replace(THIN, " ")
    '4 722'
    """
    return NONE if value is None else f"{int(value):,}".replace(",", THIN)


def percent(part: float, whole: float) -> str:
    """Return a share in whole percent, or a dash where the whole is nothing."""
    return f"{round(100 * part / whole)}{THIN}%" if whole else NONE


def duration(seconds: float) -> str:
    """Return a time in the unit a reader would use.

    >>> duration(5400).replace(THIN, " ")
    '1.5 h'
    """
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{seconds / size:.0f}{THIN}{unit}"
    return f"{seconds / 3600:.1f}{THIN}h"


def plural(n: int, one: str, many: str | None = None) -> str:
    """Return a count with its noun.

    >>> plural(1, "site"), plural(3, "site")
    ('1 site', '3 sites')
    """
    return f"{count(n)} {one if n == 1 else many or one + 's'}"


def listing(names: list[str]) -> str:
    """Return names as a phrase.

    >>> listing(["a", "b", "c"])
    'a, b and c'
    """
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
