"""An account that its provider refuses: when it is asked again, and who may find out (spec 12.3). Pure values.

Refused accounts are polled at growing intervals. After a good poll one request is let through; if that is served the
account is as before. Where no other credential can serve, one request in each interval is let through as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

#: Seconds until the first, second, … poll; the last holds for all further ones.
INTERVALS = (60.0, 120.0, 300.0, 600.0, 1800.0)
#: After so long without being refused again the intervals begin anew (seconds).
GOOD_TIME = 600.0


@dataclass(frozen=True, slots=True)
class Refused:
    """A refusal of the account.

    ``sentence``: the provider's. ``since``: when it was refused first, ``next_at``: when it is polled again,
    ``request_at``: when one request may find out although no poll was good, where nobody else can serve (Unix seconds).
    ``step``: which interval runs. ``is_open``: the next request may go there, to find out.
    """

    sentence: str
    since: float
    next_at: float
    request_at: float
    step: int = 0
    is_open: bool = False

    def moved(self, by: float) -> Refused:
        """Return the refusal after the clock was set by ``by`` seconds: the intervals are durations."""
        return replace(
            self, since=self.since + by, next_at=self.next_at + by, request_at=self.request_at + by
        )


@dataclass(frozen=True, slots=True)
class LastRefused:
    """How far the intervals had grown when an account was served again, and when that was (Unix seconds)."""

    step: int
    served_at: float


def refused(known: Refused | None, last: LastRefused | None, sentence: str, now: float) -> Refused:
    """The account was refused, perhaps again: the next interval begins."""
    if known is not None:
        is_due = known.is_open or now >= known.next_at
        step = min(known.step + 1, len(INTERVALS) - 1) if is_due else known.step
        return replace(
            known,
            sentence=sentence or known.sentence,
            step=step,
            next_at=now + INTERVALS[step],
            request_at=now + INTERVALS[step],
            is_open=False,
        )
    step = 0
    if last is not None and 0 <= now - last.served_at < GOOD_TIME:
        step = min(last.step + 1, len(INTERVALS) - 1)
    at = now + INTERVALS[step]
    return Refused(sentence, now, at, at, step)


def polled(known: Refused, now: float, *, is_good: bool) -> Refused:
    """The usage endpoint was asked: after a good answer one request may find out; else the next interval begins.

    A refused poll does not put off the one request per interval that may find out where nobody else can serve.
    """
    if is_good:
        return replace(known, is_open=True)
    if now < known.next_at:
        return replace(known, is_open=False) if known.is_open else known
    step = min(known.step + 1, len(INTERVALS) - 1)
    return replace(known, step=step, next_at=now + INTERVALS[step], is_open=False)


def sent(known: Refused, now: float) -> Refused:
    """A request goes there, to find out; nobody else does before the next interval is over."""
    step = min(known.step + 1, len(INTERVALS) - 1)
    at = now + INTERVALS[step]
    return replace(known, is_open=False, step=step, next_at=at, request_at=at)
