"""An upstream's answer to one request, as it is judged and delivered."""

from __future__ import annotations

from dataclasses import dataclass

from ccmproxy.dialects.oauth import Authorization
from ccmproxy.http.message import ResponseHead
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.answers import Verdict
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.proxy.attempt import Attempt


@dataclass(slots=True)
class Answer:
    """An upstream's answer that ``attempt`` holds; the lease is open.

    ``sent_at``: when the request was sent (seconds of the clock).
    """

    lease: ILease
    attempt: Attempt
    head: ResponseHead
    verdict: Verdict
    authorization: Authorization
    sent_at: float

    def drop(self, outcome: LeaseOutcome) -> None:
        """Discard the response, and close the lease with ``outcome``."""
        self.attempt.discard()
        self.lease.close(outcome)
