"""Where conversations are: bounded memory of sessions, and of values that only their issuer knows (spec 6). Pure."""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

#: After so long without a request a session is forgotten (seconds).
SESSION_LIFE = 24 * 3600.0
#: Sessions, or issued values, that are remembered at most; beyond that the least recently used go first.
MOST_SESSIONS = 10_000
#: Models of one session that are remembered; names come from clients, so they are bounded.
MOST_SESSION_MODELS = 8
#: For so long a session that was assigned counts as use that does not show yet (seconds, F8).
JUST_ASSIGNED = 60.0


class IssuedValues:
    """Which credential issued a value that a client sends back in a later request (spec 3.6).

    A value counts for its session only. Entries expire :data:`SESSION_LIFE` after they were issued; of more than
    ``bound`` the oldest go first. Values are kept as digests: they may be long, and are nobody's business.
    """

    def __init__(self, bound: int = MOST_SESSIONS) -> None:
        self._bound = bound
        self._issuers: OrderedDict[tuple[str | None, bytes], tuple[str, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._issuers)

    def issued(self, session: str | None, value: bytes, tag: str, now: float) -> None:
        """The credential ``tag`` sent ``value`` in an answer at ``now`` (Unix seconds)."""
        key = (session, _digest(value))
        self._issuers.pop(key, None)
        self._issuers[key] = (tag, now)
        if len(self._issuers) > self._bound:
            self._issuers.popitem(last=False)

    def is_from(self, session: str | None, value: bytes, tag: str, now: float) -> bool:
        """Was it ``tag`` that issued ``value`` last, to this session?"""
        issuer, at = self._issuers.get((session, _digest(value)), ("", 0.0))
        return issuer == tag and now - at <= SESSION_LIFE


def _digest(value: bytes) -> bytes:
    return sha256(value).digest()


class SessionKey(NamedTuple):
    """What a session is known by: whose it is, its id, and its selection scope (spec 6.2).

    ``allow_external``: whether its requests may go to external credentials; those that may and those that may not
    share no entry. ``agent``: a subagent that is a session of its own; empty otherwise.
    """

    user: str
    session: str
    allow_external: bool = False
    agent: str = ""


@dataclass(slots=True)
class Assignment:
    """Where a session is. ``since``, ``last_use``: Unix seconds. ``models``: those it asked for, the last one last.

    ``came_from``: tag of the credential that a request tried before this one, or that was taken away from the session;
    empty where there is none. ``credential`` is empty after the latter, until the next request.
    """

    credential: str
    since: float
    last_use: float
    models: list[str] = field(default_factory=list)
    came_from: str = ""

    @property
    def model(self) -> str | None:
        """The model that was asked for last."""
        return self.models[-1] if self.models else None

    def asked_for(self, model: str | None) -> bool:
        """A request for ``model`` comes. True the first time."""
        if model is None or self.model == model:
            return False
        is_new = model not in self.models
        if not is_new:
            self.models.remove(model)
        self.models.append(model)
        del self.models[:-MOST_SESSION_MODELS]
        return is_new


class SessionTable:
    """Session → credential. Entries expire :data:`SESSION_LIFE` after their last use."""

    def __init__(self, bound: int = MOST_SESSIONS) -> None:
        self._bound = bound
        self._assignments: OrderedDict[SessionKey, Assignment] = OrderedDict()

    def __len__(self) -> int:
        return len(self._assignments)

    def find(self, key: SessionKey, now: float) -> Assignment | None:
        """Where the session is; None if it is not known, or not any more. Counts as a use."""
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
        """Put the session on the credential with this tag, wherever it was before; the models it uses stay known."""
        before = self._assignments.pop(key, None)
        models = before.models if before is not None else []
        assignment = self._assignments[key] = Assignment(credential, now, now, models)
        if len(self._assignments) > self._bound:
            self._assignments.popitem(last=False)
        return assignment

    def release_all(self, credential: str, allow_external: bool) -> int:
        """Let go of the sessions of one scope on a credential: each gets another one with its next request."""
        released = 0
        for key, assignment in self._assignments.items():
            if assignment.credential == credential and key.allow_external == allow_external:
                assignment.came_from, assignment.credential = credential, ""
                released += 1
        return released

    def forget_all(self, credentials: Iterable[str], allow_external: bool | None = None) -> int:
        """Forget the sessions on these credentials, of one scope or (None) of both; returns how many there were."""
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
        """The sessions of one user, the most recently used first."""
        return [
            (key, assignment)
            for key, assignment in reversed(self._assignments.items())
            if key.user == user and assignment.credential and now - assignment.last_use <= SESSION_LIFE
        ]


class RecentAssignments:
    """How many sessions each credential was given within the last :data:`JUST_ASSIGNED` seconds."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, str]] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, credential: str, now: float) -> None:
        """A session was given to the credential with this tag."""
        self._recent.append((now, credential))
        self._counts[credential] += 1

    def count(self, credential: str, now: float) -> int:
        """Sessions that this credential was given in the last moments."""
        # A clock that was set back must not keep them for ever.
        while self._recent and not 0 <= now - self._recent[0][0] < JUST_ASSIGNED:
            self._counts[self._recent.popleft()[1]] -= 1
        return self._counts[credential]
