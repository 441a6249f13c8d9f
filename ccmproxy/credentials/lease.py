"""One request's hold on a credential (docs/architecture.md, "Leases")."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Protocol

from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.credentials.destination import Upstream
from ccmproxy.dialects.oauth import Authorization
from ccmproxy.http.client.connection_pool import ConnectionPool
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.availability import Availability
from ccmproxy.state.limits import LimitsUpdate


class LeasedCredential(Protocol):
    """What a lease needs of the credential that it is on. Lets the credential know its leases by their class, and not
    the other way round."""

    tag: str
    is_external: bool
    log: Logger

    @property
    def upstream(self) -> Upstream:
        """Where requests go, until it is known what authorizes them."""

    def upstream_for(self, authorization: Authorization) -> Upstream:
        """Where requests go that are sent with ``authorization``."""

    async def authorize(self) -> Authorization:
        """What to send requests with. Raises CredentialUnavailable where there is nothing."""

    async def recover(self, rejected: Authorization) -> Authorization:
        """Something else than ``rejected``, which the upstream refused (spec 3.4). Raises CredentialUnavailable where
        there is nothing else."""

    def observe(self, update: LimitsUpdate) -> None:
        """State learnt from an answer."""

    def rate_limited(self, until: float, explicit: bool) -> None:
        """The upstream answered 429 on account of the whole credential; ``until`` in Unix seconds."""

    def block(self, reason: str, until: float) -> None:
        """Not to be used until then (Unix seconds)."""

    def reject(self) -> None:
        """Not to be used for a while (spec 4.4)."""

    def poll_if_stale(self) -> None:
        """Start a poll if what is known is old. Returns at once."""

    def is_usable(self) -> bool:
        """Can it take a request now?"""

    def release(self, lease: Lease) -> None:
        """Called by a lease that was closed, once."""


@implementer(ILease)
class Lease:
    """A lease on a credential; made by :meth:`.Credential.lease`.

    ``outcome`` is None until it is closed. What an answer says is taken over also after that (F38): it is about this
    credential, whenever it comes.
    """

    __slots__ = (
        "_credential",
        "_interrupt",
        "_interrupted_by",
        "_upstream",
        "holder",
        "is_external",
        "outcome",
        "tag",
    )

    def __init__(self, credential: LeasedCredential, holder: Hashable = None) -> None:
        self._credential = credential
        self.holder = holder
        self._interrupt: Callable[[Availability], None] | None = None
        self._interrupted_by: Availability | None = None
        self._upstream = credential.upstream
        self.tag = credential.tag
        self.is_external = credential.is_external
        self.outcome: LeaseOutcome | None = None

    def __repr__(self) -> str:
        return f"<Lease {self.tag} {self.outcome.name if self.outcome else 'open'}>"

    async def authorize(self) -> Authorization:
        """The token or key to send, refreshed first if it is due. Raises CredentialUnavailable where there is none."""
        return self._sent_with(await self._credential.authorize())

    async def recover(self, rejected: Authorization) -> Authorization:
        """After the upstream refused ``rejected``: another one. Raises CredentialUnavailable where there is none."""
        return self._sent_with(await self._credential.recover(rejected))

    def _sent_with(self, authorization: Authorization) -> Authorization:
        """A login may have become a key, or the reverse: they may go to different addresses."""
        self._upstream = self._credential.upstream_for(authorization)
        return authorization

    @property
    def host(self) -> bytes:
        """Host header field of the upstream for what :meth:`authorize` gave last."""
        return self._upstream.host

    @property
    def base_path(self) -> bytes:
        """Path of its base URL, without a slash at its end."""
        return self._upstream.base_path

    def connections(self) -> ConnectionPool:
        """The pool of connections to it."""
        return self._upstream.connections

    def observe(self, update: LimitsUpdate) -> None:
        """State learnt from this request's answer."""
        self._credential.observe(update)

    def rate_limited(self, until: float, explicit: bool) -> None:
        """The upstream answered 429 on account of the whole credential."""
        self._credential.rate_limited(until, explicit)

    def block(self, reason: str, until: float) -> None:
        """The credential is not to be used until then (Unix seconds)."""
        self._credential.block(reason, until)

    def reject(self) -> None:
        """A remote instance refused the request for reasons of its own: it is left alone for a while (spec 4.4)."""
        self._credential.reject()

    def poll_if_stale(self) -> None:
        """Ask for the usage if what is known is old. Returns at once."""
        self._credential.poll_if_stale()

    def on_interrupt(self, callback: Callable[[Availability], None] | None) -> None:
        """Call ``callback`` once if the credential stops being usable; None disarms it.

        If that happened since the lease was taken, and still holds, ``callback`` is called at once: an interrupt is
        not lost for having come early.
        """
        self._interrupt = callback
        missed, self._interrupted_by = self._interrupted_by, None
        if callback is not None and missed is not None and not self._credential.is_usable():
            self.interrupt(missed)

    def interrupt(self, availability: Availability) -> None:
        """Called by the credential, once per transition to unusable. Never raises."""
        callback, self._interrupt = self._interrupt, None
        if self.outcome is not None:
            return
        if callback is None:
            self._interrupted_by = availability
            return
        try:
            callback(availability)
        except Exception:
            self._credential.log.failure("{tag}: interrupting a request failed", tag=self.tag)

    def close(self, outcome: LeaseOutcome) -> None:
        """Give the credential back. Idempotent; the first outcome counts."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self._interrupt = None
        self._credential.release(self)
