"""What an upstream has shown about the tokens of one account: which are good, and when the login is bad (spec 12.3).

A token is *proven* when it served a model request or a poll. A refusal of a proven token is about the request, and the
pair of token and endpoint is remembered, so that it is not asked again. A login whose tokens are refused although none
of them is proven is *bad*: it serves no requests until it changes, or until a probe (a poll) succeeds.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace

from ccmproxy.dialects.oauth import ApiKey, Authorization, OAuthToken
from ccmproxy.policy.delays import growing_delay

#: Most (token, method, path) that are remembered per account.
MOST_ENDPOINTS = 64
#: A longer path is not remembered (bytes).
LONGEST_PATH = 512
#: Delay between the first two probes, which doubles, and the longest one (seconds). The first probe is made at once.
FIRST_PROBE_DELAY = 30.0
LONGEST_PROBE_DELAY = 600.0
#: From this probe on, one that shows nothing about the token lets requests find out. Otherwise a usage endpoint that is
#: broken would keep an account out of service for ever.
DOUBTFUL_PROBES = 3


@dataclass(frozen=True, slots=True)
class BadLogin:
    """A login that the upstream refuses. ``sentence``: the provider's, may be empty. ``probes``: how many were made;
    ``next_at``: when the next one is due (Unix seconds)."""

    sentence: str
    probes: int
    next_at: float


class TokenStanding:
    """Remembers tokens by their hashes only."""

    def __init__(self) -> None:
        #: None as long as the login is not bad.
        self.bad: BadLogin | None = None
        self._proven: bytes | None = None
        #: The object that was shown to be of the proven token last: every request asks, and hashing takes its time.
        self._seen: Authorization | None = None
        self._endpoints: OrderedDict[tuple[bytes, bytes, bytes], None] = OrderedDict()
        #: How many probes the last bad time took, until a token is proven.
        self._last_probes = 0

    # Proofs -----------------------------------------------------------------------------------------------

    def prove(self, authorization: Authorization) -> None:
        """Note that a model request or a poll was served with this token."""
        self._proven = digest(authorization)
        self._seen = authorization
        self._last_probes = 0

    def is_proven(self, authorization: Authorization) -> bool:
        """Return whether a model request or a poll was served with this very token."""
        if authorization is self._seen:
            return True
        if self._proven is None or self._proven != digest(authorization):
            return False
        self._seen = authorization
        return True

    def disprove(self, authorization: Authorization) -> None:
        """Note that this token was refused since it last served anything, and that not for the request's sake."""
        if self.is_proven(authorization):
            self._proven = self._seen = None

    # Endpoints that refuse good tokens --------------------------------------------------------------------

    def remember_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> None:
        """Note that the refusal of this token at an endpoint was about the request. ``path``: without query."""
        if len(path) > LONGEST_PATH:
            return
        key = digest(authorization), method, without_ids(path)
        self._endpoints[key] = None
        self._endpoints.move_to_end(key)
        if len(self._endpoints) > MOST_ENDPOINTS:
            self._endpoints.popitem(last=False)

    def is_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> bool:
        """Return whether this endpoint has refused this token before, and that was about the request."""
        if not self._endpoints or len(path) > LONGEST_PATH:
            return False
        return (digest(authorization), method, without_ids(path)) in self._endpoints

    def replaced(self, authorization: Authorization) -> None:
        """Forget what is remembered of other tokens than this one."""
        present = digest(authorization)
        for key in [key for key in self._endpoints if key[0] != present]:
            del self._endpoints[key]

    # Bad logins -------------------------------------------------------------------------------------------

    def refuse(self, sentence: str, now: float) -> BadLogin:
        """Make the login bad at ``now`` (Unix seconds). The first probe is due at once; after an earlier bad time whose
        probes have shown nothing, the intervals go on growing. Returns what is known of the bad login."""
        if self.bad is None:
            self.bad = BadLogin(sentence, self._last_probes, self._next(self._last_probes, now))
        return self.bad

    def probed(self, is_good: bool | None, now: float) -> bool:
        """Note the outcome of a probe: whether the token is good, None = it shows nothing. Returns whether the login is
        not bad any more."""
        if self.bad is None:
            return False
        probes = self.bad.probes + 1
        if is_good or (is_good is None and probes >= DOUBTFUL_PROBES):
            self._last_probes = probes
            self.bad = None
            return True
        self.bad = BadLogin(self.bad.sentence, probes, self._next(probes, now))
        return False

    def clock_set(self, by: float) -> None:
        """Note that Unix time was set by ``by`` seconds: the interval until the next probe goes on."""
        if self.bad is not None:
            self.bad = replace(self.bad, next_at=self.bad.next_at + by)

    def changed(self) -> bool:
        """Note that the login is another one. Returns whether it was bad."""
        was_bad = self.bad is not None
        self.bad = None
        self._last_probes = 0
        return was_bad

    def _next(self, probes: int, now: float) -> float:
        return now + (growing_delay(probes, FIRST_PROBE_DELAY, LONGEST_PROBE_DELAY) if probes else 0.0)


def digest(authorization: Authorization) -> bytes:
    """Return the hash of the token or key, which tells it from others without revealing it."""
    if isinstance(authorization, OAuthToken):
        secret = authorization.access_token
    else:
        secret = authorization.key if isinstance(authorization, ApiKey) else authorization.token
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).digest()


def without_ids(path: bytes) -> bytes:
    """Return ``path`` without its query, and with each segment that holds a digit replaced, as ids do. A version such
    as ``v1`` stays."""
    segments = path.partition(b"?")[0].split(b"/")
    return b"/".join(b"*" if _is_id(segment) else segment for segment in segments)


def _is_id(segment: bytes) -> bool:
    is_version = segment[:1] == b"v" and segment[1:].isdigit() and len(segment) <= 3
    return any(48 <= byte <= 57 for byte in segment) and not is_version
