"""How numbers are spelled for people: counts, sizes, money, durations, and usage as a whole.

Pure functions from a number to a few characters. They neither write nor know where the text will stand.
"""

from rlm.events import Usage


def count(number: int) -> str:
    """A count in three digits: `999`, `1.2k`, `210k`, `1.1M`."""
    value = float(number)
    for unit in ("", "k", "M", "G"):
        if value < 999.5 or unit == "G":
            break
        value /= 1000
    digits = f"{value:.1f}" if unit and value < 9.95 else f"{value:.0f}"
    return digits.removesuffix(".0") + unit


def size(size_bytes: int) -> str:
    """Decimal bytes: `999 B`, `1.3 GB`, `412 MB`."""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5 or unit == "TB":
            break
        value /= 1000
    return f"{value:.1f} {unit}" if unit != "B" and value < 9.95 else f"{value:.0f} {unit}"


def money(cost_usd: float | None) -> str:
    """`$0.09`, `$0.0004` below a cent, `$?` when it is not known."""
    if cost_usd is None:
        return "$?"
    if cost_usd == 0 or cost_usd >= 0.00995:
        return f"${cost_usd:,.2f}"
    return f"${cost_usd:.4f}" if cost_usd >= 0.00005 else "<$0.0001"


def price_each(cost_usd: float | None) -> str:
    """What one of many costs, in two digits or so: `$0.034`, `$0.0012`, else as `money`."""
    return f"${cost_usd:.3f}" if cost_usd is not None and 0.00995 <= cost_usd < 0.0995 else money(cost_usd)


def duration(duration_s: float) -> str:
    """`12ms`, `1.2s`, `38s`, `2m 05s`, `1h 02m`."""
    if duration_s < 0.0995:
        return f"{duration_s * 1000:.0f}ms"
    if duration_s < 9.95:
        return f"{duration_s:.1f}s"
    seconds = round(duration_s)
    if seconds < 60:
        return f"{seconds}s"
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes}m {seconds:02}s" if minutes < 60 else f"{minutes // 60}h {minutes % 60:02}m"


def wait(seconds: float) -> str:
    """A time to come, in whole seconds and never none: `1s`, `28s`, `2m 05s`."""
    whole = max(1, round(seconds))
    return f"{whole}s" if whole < 60 else duration(whole)


def plural(number: int, noun: str) -> str:
    """`1 step`, `3 steps`, `1.2k calls`."""
    return f"{count(number)} {noun}" if number == 1 else f"{count(number)} {noun}s"


def usage_text(usage: Usage) -> str:
    """`41 calls · 210k in / 6k out (90k cached) · $0.09`."""
    return f"{plural(usage.calls, 'call')} · {tokens_text(usage)} · {cost_text(usage)}"


def tokens_text(usage: Usage) -> str:
    """`210k in / 6k out (90k cached)`; `~` marks what was counted here, not reported."""
    about = "~" if usage.estimated else ""
    text = f"{about}{count(usage.input_tokens)} in / {about}{count(usage.output_tokens)} out"
    return f"{text} ({about}{count(usage.cached_tokens)} cached)" if usage.cached_tokens else text


def total_tokens_text(usage: Usage) -> str:
    """`216k tok`: input and output together; `~` as in `tokens_text`."""
    about = "~" if usage.estimated else ""
    return f"{about}{count(usage.input_tokens + usage.output_tokens)} tok"


def cost_text(usage: Usage) -> str:
    """The cost of `usage`: `$0.09`, `~$0.09` when estimated, `$?` when unpriced."""
    about = "~" if usage.estimated and usage.cost_usd is not None else ""
    return about + money(usage.cost_usd)
