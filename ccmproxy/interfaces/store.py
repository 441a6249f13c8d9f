"""The store of what outlives the process (spec 9): what is written, what may be asked, and how it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import tzinfo
from decimal import Decimal
from enum import Enum
from math import isnan
from typing import TYPE_CHECKING, Final

from zope.interface import Interface

if TYPE_CHECKING:
    from ccmproxy.state.usage_record import UsageRecord

#: Times that a record may have begun at (Unix seconds, the second one excluded): up to the year 3000, so that every
#: time zone has a calendar for them.
EARLIEST: Final = 0.0
LATEST: Final = 32_503_680_000.0

#: Most rows of a report. A question that has more is to be asked for a shorter time, or of one user.
MOST_ROWS: Final = 5_000


class StoreUnusable(Exception):
    """The store cannot be used as it is, and trying again changes nothing: somebody has to do something about it.

    It is no database, damaged, of a newer program, held by another daemon, on a network file system, may not be
    written, or was deleted. ``str()`` is a sentence for the operator. It names the place, and neither holds a secret
    nor anything that is kept there.
    """


class StoreFailed(Exception):
    """The store cannot be used at this moment: the disk is full, or another program holds a lock. Nothing was changed.

    The same call may be tried again later. ``str()`` is a sentence for the operator, as that of StoreUnusable is.
    """


@dataclass(frozen=True, slots=True)
class CostedRecord:
    """A record of usage as it is stored.

    ``cost``: USD at list prices; None where no price is known. ``price_list``: the version of the price list that it
    was computed with; may be empty.

    Raises ValueError for a time of beginning that is no number from EARLIEST up to LATEST, and for a cost that is not
    finite or below 0: they have no place in any sum. What is refused here never gets into a batch, where it would keep
    out all others.
    """

    record: UsageRecord
    cost: Decimal | None = None
    price_list: str = ""

    def __post_init__(self) -> None:
        if not EARLIEST <= self.record.started_at < LATEST:  # false for NaN, too
            raise ValueError("a record whose time of beginning is none")
        if self.cost is not None and not (self.cost.is_finite() and self.cost >= 0):
            raise ValueError("a record whose cost is none")


class Grouping(Enum):
    """What a row of a report stands for: a period of the calendar, or what the records have in common."""

    HOUR = "hour"
    DAY = "day"
    #: From Monday to Sunday.
    WEEK = "week"
    MONTH = "month"
    MODEL = "model"
    USER = "user"
    CREDENTIAL = "credential"
    #: Known for as long as records are kept.
    SESSION = "session"

    @property
    def is_period(self) -> bool:
        """Whether rows stand for periods, so that they have a beginning instead of a name."""
        return self in (Grouping.HOUR, Grouping.DAY, Grouping.WEEK, Grouping.MONTH)


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuestion:
    """What a report is to be about.

    ``since``, ``until``: Unix seconds; whole quarters of an hour count, so that the first one is rounded down and the
    other one up. ``zone``: whose calendar has the days, weeks and months. The others are filters; None: all.

    Raises ValueError for a time that is NaN.
    """

    since: float
    until: float
    by: Grouping
    zone: tzinfo
    user: str | None = None
    service: str | None = None
    credential: str | None = None
    model: str | None = None

    def __post_init__(self) -> None:
        if isnan(self.since) or isnan(self.until):
            raise ValueError("a time that is no number")


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """A row of a report: sums over the answers that it stands for.

    ``starts_at``: of a period, when it begins (Unix seconds), though not before the question's ``since``; else None.
    ``name``: of what is no period, which model, user, credential or session it is. Tokens are as in UsageRecord.
    ``cost``: USD, of those with a price. ``unpriced``, ``incomplete``, ``estimated`` and ``extra`` say how many of the
    ``requests`` have no price, broke off, are estimated, and were paid for beside the plan.
    """

    starts_at: float | None
    name: str
    requests: int
    input: int
    output: int
    cache_read: int
    cache_creation: int
    cache_creation_5m: int
    cache_creation_1h: int
    reasoning: int
    cost: Decimal
    unpriced: int
    incomplete: int
    estimated: int
    extra: int


@dataclass(frozen=True, slots=True)
class UsageReport:
    """The answer to a question. ``rows``: periods in order of time, others with the dearest first; none is empty.

    ``is_cut``: there were more than MOST_ROWS; the earliest periods, or the cheapest of the others, are left out.
    """

    rows: tuple[UsageRow, ...]
    is_cut: bool = False


class IStore(Interface):
    """Writes to a store. One daemon has it.

    All methods block, and are called in one thread at a time, which is not the reactor's. Each does all that it says
    or nothing. Every method but ``close`` raises StoreUnusable and StoreFailed. After StoreUnusable the store is
    closed; ``open`` may be tried once something was done about it.
    """

    def open() -> None:
        """Take the store for this daemon, make it if there is none, and bring its schema up to date. Idempotent."""

    def insert(records: Sequence[CostedRecord]) -> int:
        """Add those records that are not there yet; return how many that were.

        Durable when this returns, even if the machine's power fails. What roll-ups are derived from is exactly what was
        added, in the same transaction, so that a record counts once, however often it is given. One that began before
        the last one that was forgotten is not added: nobody knows whether it was counted.

        Texts are kept with at most 200 characters, those that are not printable escaped. Numbers are kept within bounds
        that no answer reaches and that leave room for sums. Numbers of seconds that are not finite are kept as 0.
        """

    def forget(before: float, most_rows: int) -> int:
        """Delete records that began before ``before`` (Unix seconds), the oldest first, and what is kept of sessions
        for as long as their records; return how many rows that were. Roll-ups stay.

        Deletes at most ``most_rows``, so that what waits to be inserted never waits for long. To be called again until
        it returns 0.
        """

    def close() -> None:
        """Give up the store. Idempotent; raises nothing."""


class IStoreReader(Interface):
    """Reads a store, while a daemon may be writing to it. Each has a connection of its own.

    All methods block, and are called in one thread at a time, which is not the reactor's. All but ``close`` raise
    StoreUnusable and StoreFailed. Each sees one state of the store, as it was when the call began.
    """

    def usage(question: UsageQuestion) -> UsageReport:
        """Answer ``question`` from the roll-ups."""

    def check() -> tuple[str, ...]:
        """Look whether the store is whole, and whether roll-ups equal the sums of their records where these are still
        kept. Return a sentence for each problem, none if all is well. Reads everything, so that it may take seconds."""

    def backup(path: str) -> None:
        """Write a copy to the new file ``path``, which only its owner may read. Raises StoreUnusable if there is such a
        file already. What is not complete has another name: ``path`` with ".part" added."""

    def close() -> None:
        """Give up the connection. Idempotent; raises nothing."""
