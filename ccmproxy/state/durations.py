"""Formatting durations for people."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Return ``seconds`` as, for example, ``2h13m``, ``3d4h`` or ``45s``: rounded up to a whole second, at least 0, in
    the two largest units."""
    whole = max(0, int(-(-seconds // 1)))
    if whole < 60:
        return f"{whole}s"
    days, rest = divmod(whole, 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days}d{hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h{minutes}m" if minutes else f"{hours}h"
    return f"{minutes}m{rest}s" if rest else f"{minutes}m"
