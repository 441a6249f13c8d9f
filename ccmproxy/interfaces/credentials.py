"""Credentials (accounts and remote instances), the providers that select among them, and the stores of logins."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from ccmproxy.dialects.oauth import Authorization
    from ccmproxy.http.client.connection_pool import ConnectionPool
    from ccmproxy.policy.balancing import Selection
    from ccmproxy.policy.retry import LeaseOutcome
    from ccmproxy.policy.sessions import Assignment, SessionKey
    from ccmproxy.state.availability import Availability, CredentialSnapshot
    from ccmproxy.state.holds import Combination
    from ccmproxy.state.inputs import Input
    from ccmproxy.state.limits import LimitsUpdate


class CredentialUnavailable(Exception):
    """The credential has no usable token: its file is missing or broken, or a refresh failed, for example.

    ``str()`` is a sentence without secrets or paths, for the operator and the client. ``hard`` means that only a change
    of the credential file can help (spec 3.2); other failures are soft and may be temporary. ``retry_in``: seconds
    after which the same request may succeed, because the cause is a passing one that is tried again by then (spec
    12.4); None where nothing is tried.
    """

    def __init__(self, message: str, *, hard: bool = False, retry_in: float | None = None) -> None:
        super().__init__(message)
        self.hard = hard
        self.retry_in = retry_in


class RefreshNotForced(CredentialUnavailable):
    """The upstream refused the token, and no refresh is forced for that: this request may not force one, or as many as
    are allowed were forced lately (spec 12.3). Says nothing about the login."""


class ICredentialStore(Interface):
    """The store of one account's login: a file, or the system's keychain. Its methods block, but only briefly."""

    description: str = Attribute("A path or keychain item, for messages.")

    def read() -> bytes:
        """Return the stored document. Raises CredentialFileError with a sentence when there is none."""

    def write(document: bytes) -> None:
        """Replace the document atomically and durably (spec 3.1). Raises OSError or CredentialFileError when it cannot
        be written."""

    def check_writable() -> None:
        """Raise CredentialFileError if a ``write`` is bound to fail (spec 3.2 point 4)."""

    def clean_up(is_newer: Callable[[bytes, bytes], bool]) -> bool:
        """Remove the temporary files that a crash in the middle of a ``write`` left behind (spec 3.2 point 6).

        One for which ``is_newer(present document, its content)`` is true becomes the document first. Returns whether
        one did. Never raises; the files of a write in progress, and all of them where there is no document, stay.
        """


class ILease(Interface):
    """The hold of one request on a credential. It must be closed exactly once, with an outcome.

    A lease counts as a request in flight, passes the limits in answers to the credential, and receives interrupts
    (docs/architecture.md, "Leases").
    """

    tag: str = Attribute("Tag of the credential.")
    is_external: bool = Attribute("True where the credential is a remote instance.")
    host: bytes = Attribute(
        "Host header field of its upstream, with the port where it is not the scheme's own. This, base_path and"
        " connections() are those for what authorize() or recover() gave last."
    )
    base_path: bytes = Attribute("Path of the upstream's base URL, without a slash at its end; mostly empty.")

    async def authorize() -> Authorization:
        """Return the token or key to send, after refreshing it if that is due. Raises CredentialUnavailable when there
        is none."""

    async def recover(rejected: Authorization, caller: str = "") -> Authorization:
        """Return another authorization than ``rejected``, which the upstream refused to ``caller`` (a user's name; spec
        3.4). Raises CredentialUnavailable when there is no other."""

    async def prove(authorization: Authorization) -> bool | None:
        """Return whether this very authorization is known to be good for other requests."""

    def proved(authorization: Authorization) -> None:
        """Note that a model request was served with this authorization."""

    def login_refused(authorization: Authorization, sentence: str) -> None:
        """Note that the upstream goes on refusing this authorization."""

    def is_about_request(authorization: Authorization, method: bytes, path: bytes) -> bool:
        """Return whether a 401 for such a request is known to be about the request."""

    def remember_about_request(authorization: Authorization, method: bytes, path: bytes) -> None:
        """Note that a 401 for such a request is about the request alone."""

    def connections() -> ConnectionPool:
        """Return the pool of connections to this credential's upstream."""

    def observe(update: LimitsUpdate) -> None:
        """Take over the limits that the answer to this request reported."""

    def rate_limited(until: float, explicit: bool) -> None:
        """Note that the upstream answered 429 for the whole credential. ``until``: Unix seconds.

        ``explicit``: the upstream named that time; otherwise it is a default of ccmproxy (F46). The limit of a single
        model is reported by :meth:`observe` instead.
        """

    identity: str = Attribute(
        "Id of the account or organization whose login it is; empty where it is not known."
    )
    is_account: bool = Attribute(
        "True for an account with a login: others' answers are no second opinion (spec 12.1)."
    )

    def learn(event: Input) -> None:
        """Take over what this request's outcome tells of the credential, also after the lease was closed (F38)."""

    def sending(asked: Combination) -> None:
        """Note that the request is about to be sent."""

    def gave_up(asked: Combination) -> None:
        """Note that the request came to nothing that tells anything of the credential."""

    def served(asked: Combination, sent_at: float, is_model_request: bool) -> None:
        """Note that the upstream has served the request, which was sent at ``sent_at`` (Unix seconds)."""

    def reject() -> None:
        """Note that a remote instance refused the request for reasons of its own (spec 4.4)."""

    def poll_if_stale() -> None:
        """Start a poll if the known usage is out of date. Returns at once."""

    def poll_now() -> None:
        """Start a poll because the answer contradicts what is known, unless one is in progress. Returns at once."""

    def on_interrupt(callback: Callable[[Availability], None] | None) -> None:
        """Call ``callback`` once when the credential becomes unusable. None removes the callback, as holders do when a
        response begins."""

    def close(outcome: LeaseOutcome) -> None:
        """Give the credential back. Idempotent: the first outcome counts."""


class ICredential(Interface):
    """One account or one remote instance."""

    tag: str = Attribute("Unique name in the configuration.")
    is_external: bool = Attribute("True for a remote instance.")
    is_api_key: bool = Attribute("True where a commercial API key is used (spec 3.7).")
    is_account: bool = Attribute(
        "True for an account with a login: others' answers are no second opinion (spec 12.1)."
    )
    identity: str = Attribute(
        "Whose login it is: id of the account or organization (F33); empty = not known."
    )

    def snapshot(now: float, model: str | None = None) -> CredentialSnapshot:
        """Return an immutable view of the state at ``now`` (Unix seconds). With ``model``, it includes the windows of
        that model."""

    def turns_away(asked: Combination, is_warm: bool, now: float) -> bool:
        """Return whether a request for ``asked`` does not go there at ``now`` (Unix seconds), although the windows have
        room (spec 12.2). ``is_warm``: its session was served there within the last minutes."""

    def free_at(asked: Combination, now: float) -> float:
        """Return when a rest of ``asked`` ends there (Unix seconds); 0: it does not rest."""

    def learn(event: Input) -> None:
        """Take over what the answer to a request tells of the credential."""

    def lease(holder: Hashable = None) -> ILease:
        """Open a lease, even if the credential is unusable: the provider checks that. ``holder`` is the key by which
        :meth:`interrupt` finds the lease."""

    def interrupt(holder: Hashable, cause: Availability) -> None:
        """Interrupt the leases of ``holder`` as if ``cause`` had made the credential unusable (spec 6.5)."""

    def subscribe(listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that is visible in the status. Returns a function that unsubscribes."""

    def poll_if_stale() -> None:
        """Start a poll if the known usage is older than the poll interval. Returns at once (spec 3.5)."""

    def poll_if_unusable() -> None:
        """Start a poll if the credential is unusable, to see whether it has recovered. Returns at once (spec 5.5)."""


class IProvider(Interface):
    """A target that a user can be routed to: a single credential, or a pool."""

    def select(selection: Selection) -> ILease:
        """Return a lease on the credential that is to serve the request. Raises
        :class:`ccmproxy.policy.balancing.NoCredential` when none can."""

    def served(selection: Selection, tag: str) -> None:
        """Note that the credential ``tag`` has served a request of this session: its prompt cache is warm there."""

    def keeps(selection: Selection, tag: str) -> bool:
        """Return whether a new turn may use the connection that this session has to the credential ``tag``.

        This is checked for every turn (F39), and counts as a use of the session. If it returns False, the client has to
        reconnect; :meth:`select` then chooses another credential, or reports why there is none.
        """

    def credentials(allow_external: bool) -> Sequence[ICredential]:
        """Return all credentials that may serve a user with that permission, usable or not, in order."""

    def subscribe(listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that is visible in the status. Returns a function that unsubscribes."""

    def sessions(user: str) -> Sequence[tuple[SessionKey, Assignment]]:
        """Return the sessions of one user and the credential that each is assigned to, the most recently used first.
        ``user``: the name, empty in a service without users."""

    patience: float = Attribute(
        "Longest wait for which a warm session stays where it was refused (seconds, spec 12.2)."
    )

    def is_warm(selection: Selection, tag: str) -> bool:
        """Return whether the credential ``tag`` has served this session within the last minutes."""

    def refused(selection: Selection, tag: str) -> None:
        """Note that a stream of this session was refused in mid-stream, without data, on the credential ``tag``: its
        next request goes elsewhere (spec 12.1)."""

    is_single_account: bool = Attribute("True for exactly one default credential (fast mode, spec 4.1).")
