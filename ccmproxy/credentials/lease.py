"""A lease: the hold of one request on a credential (docs/architecture.md, "Leases")."""

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
from ccmproxy.state.availability import Availability, CredentialState
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import Input
from ccmproxy.state.limits import LimitsUpdate


class LeasedCredential(Protocol):
    """The methods of a credential that its leases use. Credentials depend on the class Lease; this protocol avoids the
    dependency in the other direction."""

    tag: str
    is_external: bool
    log: Logger
    state: CredentialState

    @property
    def upstream(self) -> Upstream:
        """The upstream that requests go to as long as their authorization is not known."""

    def upstream_for(self, authorization: Authorization) -> Upstream:
        """Return the upstream for requests that are sent with ``authorization``."""

    async def authorize(self) -> Authorization:
        """Return the authorization to send requests with. Raises CredentialUnavailable when there is none."""

    async def recover(self, rejected: Authorization, caller: str = "") -> Authorization:
        """Return another authorization than ``rejected``, which the upstream refused (spec 3.4). Raises
        CredentialUnavailable when there is no other."""

    async def prove(self, authorization: Authorization) -> bool | None:
        """Return whether this very authorization is known to be good for other requests; None: nobody could say."""

    def proved(self, authorization: Authorization) -> None:
        """Note that a model request was served with this authorization."""

    def login_refused(self, authorization: Authorization, sentence: str) -> None:
        """Note that the upstream goes on refusing this authorization."""

    def is_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> bool:
        """Return whether a 401 for such a request is known to be about the request."""

    def remember_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> None:
        """Note that a 401 for such a request is about the request alone."""

    def observe(self, update: LimitsUpdate) -> None:
        """Take over the limits that an answer reported."""

    def rate_limited(self, until: float, explicit: bool) -> None:
        """Note that the upstream answered 429 for the whole credential. ``until``: Unix seconds; ``explicit``: the
        upstream named that time."""

    @property
    def identity(self) -> str:
        """Whose login it is; empty = not known."""

    @property
    def is_account(self) -> bool:
        """Whether it is an account with a login."""

    def learn(self, event: Input) -> None:
        """Take over what a request's outcome tells of the credential."""

    def sending(self, asked: Combination) -> None:
        """Note that a request for ``asked`` is about to be sent."""

    def gave_up(self, asked: Combination) -> None:
        """Note that a request for ``asked`` came to nothing that tells anything of the credential."""

    def served(self, asked: Combination, sent_at: float, is_model_request: bool) -> None:
        """Note that the upstream has served a request that was sent at ``sent_at`` (Unix seconds)."""

    def reject(self) -> None:
        """Do not use the credential for a while (spec 4.4)."""

    def poll_if_stale(self) -> None:
        """Start a poll if the known usage is out of date. Returns at once."""

    def poll_now(self) -> None:
        """Start a poll, unless one is in progress. Returns at once."""

    def is_usable(self) -> bool:
        """Return whether the credential can serve a request now."""

    def release(self, lease: Lease) -> None:
        """Forget ``lease``. Called exactly once, by the lease when it is closed."""


@implementer(ILease)
class Lease:
    """A lease on a credential, made by :meth:`.Credential.lease`.

    ``outcome`` is None while the lease is open. Limits and errors reported after closing still reach the credential
    (F38), because they are about this credential whenever they arrive. They do not if another identity's login has come
    since the request was authorized: then they are about the last one (spec 12.5).
    """

    __slots__ = (
        "_credential",
        "_interrupt",
        "_interrupted_by",
        "_slate",
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
        self._slate = credential.state.slate
        self.tag = credential.tag
        self.is_external = credential.is_external
        self.outcome: LeaseOutcome | None = None

    def __repr__(self) -> str:
        return f"<Lease {self.tag} {self.outcome.name if self.outcome else 'open'}>"

    async def authorize(self) -> Authorization:
        """Return the token or key to send, after refreshing it if that is due. Raises CredentialUnavailable when there
        is none."""
        return self._sent_with(await self._credential.authorize())

    async def recover(self, rejected: Authorization, caller: str = "") -> Authorization:
        """Return another authorization than ``rejected``, which the upstream refused. Raises CredentialUnavailable when
        there is no other."""
        return self._sent_with(await self._credential.recover(rejected, caller))

    def _sent_with(self, authorization: Authorization) -> Authorization:
        """Switch to the upstream for ``authorization``: a login may have become a key, or the reverse, and the two may
        have different upstreams."""
        self._upstream = self._credential.upstream_for(authorization)
        self._slate = self._credential.state.slate
        return authorization

    @property
    def host(self) -> bytes:
        """The Host header field of the upstream for the authorization that was returned last."""
        return self._upstream.host

    @property
    def base_path(self) -> bytes:
        """The path of the upstream's base URL, without a trailing slash."""
        return self._upstream.base_path

    def connections(self) -> ConnectionPool:
        """Return the pool of connections to the upstream."""
        return self._upstream.connections

    async def prove(self, authorization: Authorization) -> bool | None:
        """Return whether this very authorization is known to be good for other requests (spec 12.3); None: nobody
        could say."""
        return await self._credential.prove(authorization)

    def proved(self, authorization: Authorization) -> None:
        """Note that a model request was served with this authorization."""
        self._credential.proved(authorization)

    def login_refused(self, authorization: Authorization, sentence: str) -> None:
        """Note that the upstream goes on refusing this authorization. ``sentence``: the provider's."""
        self._credential.login_refused(authorization, sentence)

    def is_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> bool:
        """Return whether a 401 for such a request is known to be about the request, whatever the login."""
        return self._credential.is_about_request(authorization, method, path)

    def remember_about_request(self, authorization: Authorization, method: bytes, path: bytes) -> None:
        """Note that a 401 for such a request is about the request alone."""
        self._credential.remember_about_request(authorization, method, path)

    def observe(self, update: LimitsUpdate) -> None:
        """Take over the limits that the answer to this request reported."""
        if self._slate == self._credential.state.slate or update.organization == self._credential.identity:
            self._credential.observe(update)

    def rate_limited(self, until: float, explicit: bool) -> None:
        """Note that the upstream answered 429 for the whole credential. ``until``: Unix seconds."""
        if self._slate == self._credential.state.slate:
            self._credential.rate_limited(until, explicit)

    @property
    def identity(self) -> str:
        """Whose login it is: id of the account or organization; empty = not known."""
        return self._credential.identity

    @property
    def is_account(self) -> bool:
        """Whether it is an account with a login: what keys and remote instances answer is no second opinion."""
        return self._credential.is_account

    def learn(self, event: Input) -> None:
        """Take over what this request's outcome tells of the credential, also after the lease was closed (F38)."""
        if self._slate == self._credential.state.slate:
            self._credential.learn(event)

    def sending(self, asked: Combination) -> None:
        """Note that the request is about to be sent."""
        if self._slate == self._credential.state.slate:
            self._credential.sending(asked)

    def gave_up(self, asked: Combination) -> None:
        """Note that the request came to nothing that tells anything of the credential: another one may go first after
        a rest."""
        if self._slate == self._credential.state.slate:
            self._credential.gave_up(asked)

    def served(self, asked: Combination, sent_at: float, is_model_request: bool) -> None:
        """Note that the upstream has served the request, which was sent at ``sent_at`` (Unix seconds)."""
        if self._slate == self._credential.state.slate:
            self._credential.served(asked, sent_at, is_model_request)

    def reject(self) -> None:
        """Do not use a remote instance for a while because it refused the request for reasons of its own (spec 4.4)."""
        self._credential.reject()

    def poll_if_stale(self) -> None:
        """Start a poll if the known usage is out of date. Returns at once."""
        self._credential.poll_if_stale()

    def poll_now(self) -> None:
        """Start a poll because the answer contradicts what is known, unless one is in progress. Returns at once."""
        self._credential.poll_now()

    def on_interrupt(self, callback: Callable[[Availability], None] | None) -> None:
        """Call ``callback`` once when the credential becomes unusable. None removes the callback.

        An interrupt that came before a callback was set is not lost: ``callback`` is called at once if the credential
        is still unusable.
        """
        self._interrupt = callback
        missed, self._interrupted_by = self._interrupted_by, None
        if callback is not None and missed is not None and not self._credential.is_usable():
            self.interrupt(missed)

    def interrupt(self, availability: Availability) -> None:
        """Report to the holder that the credential has become unusable. Called by the credential, once per transition.
        Never raises."""
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
        """Give the credential back. Idempotent: the first outcome counts."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self._interrupt = None
        self._credential.release(self)
