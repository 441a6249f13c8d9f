"""Sticky sessions: which credential serves a session, and which one issued a value (spec 6). Bounded memory. Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

#: How long a session is remembered after its last request (seconds).
SESSION_LIFE = 24 * 3600.0
#: Number of sessions, or of issued values, that are remembered; beyond it, the least recently used are forgotten.
MOST_SESSIONS = 10_000
#: Number of models that are remembered per session. Bounded, as clients choose the names.
MOST_SESSION_MODELS = 8
#: How long an assigned session counts as usage that is not visible yet (seconds, F8).
JUST_ASSIGNED = 60.0


#: So long after it was served a session is warm there; for so long it does not return to where a rest moved it away
#: from (seconds, spec 12.2).
WARM_TIME = 300.0


class IssuedValues:
    """Remembers which credential issued a value that a client sends back in a later request (spec 3.6).

    A value is valid for its session only. Entries expire :data:`SESSION_LIFE` after they were issued; beyond ``bound``
    entries, the oldest are dropped. Values are stored as digests, because they may be long and are private.
    """

    def __init__(self, bound: int = MOST_SESSIONS) -> None:
        self._bound = bound
        self._issuers: OrderedDict[tuple[str | None, bytes], tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._issuers)

    def issued(self, session: str | None, value: bytes, tag: str, now: float) -> None:
        """Record that the credential ``tag`` sent ``value`` in a response at ``now`` (seconds of a monotonic clock)."""
        key = (session, _digest(value))
        self._issuers.pop(key, None)
        self._issuers[key] = (tag, now)
        if len(self._issuers) > self._bound:
            self._issuers.popitem(last=False)

    def is_from(self, session: str | None, value: bytes, tag: str, now: float) -> bool:
        """Return whether ``tag`` was the last credential that issued ``value`` to this session."""
        issuer, at = self._issuers.get((session, _digest(value)), ("", 0.0))
        return issuer == tag and now - at <= SESSION_LIFE


def _digest(value: bytes) -> bytes:
    return sha256(value).digest()


class SessionKey(NamedTuple):
    """The key of a session: its user, its id, and its selection scope (spec 6.2).

    ``allow_external``: whether its requests may use external credentials; requests that may and requests that may not
    never share an entry. ``agent``: id of a subagent that counts as a session of its own; empty otherwise.
    """

    user: str
    session: str
    allow_external: bool = False
    agent: str = ""


@dataclass(slots=True)
class Assignment:
    """The assignment of a session to a credential.

    ``since``, ``last_use``: Unix seconds. ``models``: the requested models, the most recent last. ``came_from``: tag of
    the credential that a request tried before this one, or that the session was released from; empty if there is none.
    After a release, ``credential`` is empty until the next request. ``served_at``: when the credential last served the
    session, ``origin_served_at``: when ``came_from`` did (Unix seconds, 0 = never). ``rested``: tag of the credential
    that a rest has moved the session away from, ``rested_at``: when.
    """

    credential: str
    since: float
    last_use: float
    models: list[str] = field(default_factory=list)
    came_from: str = ""
    served_at: float = 0.0
    rested: str = ""
    rested_at: float = 0.0
    origin_served_at: float = 0.0

    def is_warm(self, credential: str, now: float) -> bool:
        """Return whether this credential has served the session within the last minutes, so that its prompt cache is
        warm there: the present one, or the one that the session came from."""
        if credential == self.credential:
            return 0 <= now - self.served_at < WARM_TIME
        return credential == self.came_from and 0 <= now - self.origin_served_at < WARM_TIME

    def leaves(self, credential: str, now: float) -> None:
        """The credential has refused the session in mid-stream: it goes elsewhere for a minute (spec 12.1)."""
        self.rested, self.rested_at = credential, now - WARM_TIME + 60.0

    def avoids(self, credential: str, now: float) -> bool:
        """Whether a rest has moved the session away from this credential within the last minutes (spec 12.2)."""
        return self.rested == credential and 0 <= now - self.rested_at < WARM_TIME

    def clock_set(self, by: float) -> None:
        """Note that Unix time was set by ``by`` seconds: what is measured here are durations."""
        self.since += by
        self.last_use += by
        self.served_at += by if self.served_at else 0.0
        self.origin_served_at += by if self.origin_served_at else 0.0
        self.rested_at += by

    @property
    def model(self) -> str | None:
        """The most recently requested model."""
        return self.models[-1] if self.models else None

    def asked_for(self, model: str | None) -> bool:
        """Record a request for ``model``. Returns True if it is the session's first request for this model."""
        if model is None or self.model == model:
            return False
        is_new = model not in self.models
        if not is_new:
            self.models.remove(model)
        self.models.append(model)
        del self.models[:-MOST_SESSION_MODELS]
        return is_new


class SessionTable:
    """The assignments of sessions to credentials. Entries expire :data:`SESSION_LIFE` after their last use."""

    def __init__(self, bound: int = MOST_SESSIONS) -> None:
        self._bound = bound
        self._assignments: OrderedDict[SessionKey, Assignment] = OrderedDict()

    def __len__(self) -> int:
        return len(self._assignments)

    def clock_set(self, by: float) -> None:
        """Note that Unix time was set by ``by`` seconds: all sessions live on as if nothing had happened."""
        for assignment in self._assignments.values():
            assignment.clock_set(by)

    def find(self, key: SessionKey, now: float) -> Assignment | None:
        """Return the assignment of the session, or None if it is unknown or expired. Counts as a use."""
        assignment = self._assignments.get(key)
        if assignment is None:
            return None
        if now - assignment.last_use > SESSION_LIFE:
            del self._assignments[key]
            return None
        assignment.last_use = now
        self._assignments.move_to_end(key)
        return assignment

    def assign(self, key: SessionKey, credential: str, now: float) -> Assignment:
        """Assign the session to the credential with this tag, replacing any assignment; its models are kept."""
        before = self._assignments.pop(key, None)
        models = before.models if before is not None else []
        assignment = self._assignments[key] = Assignment(credential, now, now, models)
        if len(self._assignments) > self._bound:
            self._assignments.popitem(last=False)
        return assignment

    def release_all(self, credential: str, allow_external: bool) -> int:
        """Release the sessions of one scope from a credential; each gets another credential with its next request.

        Returns the number of released sessions.
        """
        released = 0
        for key, assignment in self._assignments.items():
            if assignment.credential == credential and key.allow_external == allow_external:
                assignment.came_from, assignment.credential = credential, ""
                released += 1
        return released

    def forget_all(self, credentials: Iterable[str], allow_external: bool | None = None) -> int:
        """Forget the sessions on these credentials, of one scope or, with None, of both. Returns their number."""
        tags = frozenset(credentials)
        forgotten = [
            key
            for key, assignment in self._assignments.items()
            if assignment.credential in tags and allow_external in (None, key.allow_external)
        ]
        for key in forgotten:
            del self._assignments[key]
        return len(forgotten)

    def of_user(self, user: str, now: float) -> list[tuple[SessionKey, Assignment]]:
        """Return the sessions of one user, the most recently used first."""
        return [
            (key, assignment)
            for key, assignment in reversed(self._assignments.items())
            if key.user == user and assignment.credential and now - assignment.last_use <= SESSION_LIFE
        ]


class RecentAssignments:
    """Counts the sessions that were assigned to each credential within the last :data:`JUST_ASSIGNED` seconds."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, str]] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, credential: str, now: float) -> None:
        """Record that a session was assigned to the credential with this tag."""
        self._recent.append((now, credential))
        self._counts[credential] += 1

    def clock_set(self, by: float) -> None:
        """Note that Unix time was set by ``by`` seconds."""
        self._recent = deque((at + by, credential) for at, credential in self._recent)

    def count(self, credential: str, now: float) -> int:
        """Return the number of sessions that were recently assigned to this credential."""
        while self._recent and not 0 <= now - self._recent[0][0] < JUST_ASSIGNED:
            self._counts[self._recent.popleft()[1]] -= 1
        return self._counts[credential]
