"""Accounts and remote instances, what selects among them, and where a login is kept."""

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
    from ccmproxy.state.limits import LimitsUpdate


class CredentialUnavailable(Exception):
    """The credential has no token to offer: no file, a broken one, a refresh that failed.

    ``str()`` is a sentence for the operator and the client, without secrets. ``hard`` says that nothing but a change
    of the credential file will help (spec 3.2); a soft failure may pass by itself.
    """

    def __init__(self, message: str, *, hard: bool = False) -> None:
        super().__init__(message)
        self.hard = hard


class ICredentialStore(Interface):
    """Where the login of one account is kept: a file, or the system's keychain. Blocking calls, short."""

    description: str = Attribute("A path or keychain item, for messages.")

    def read() -> bytes:
        """The stored document. Raises CredentialFileError with a sentence where there is none."""

    def write(document: bytes) -> None:
        """Replace the document atomically and durably (spec 3.1). Raises OSError or CredentialFileError."""

    def check_writable() -> None:
        """Raise CredentialFileError if a ``write`` is bound to fail (spec 3.2 point 4)."""


class ILease(Interface):
    """One request's hold on a credential. Must be closed exactly once, with an outcome.

    In-flight counts, state from headers and interrupts meet here (docs/architecture.md, "Leases").
    """

    tag: str = Attribute("Tag of the credential.")
    is_external: bool = Attribute("True where the credential is a remote instance.")
    host: bytes = Attribute(
        "Host header field of its upstream, with the port where it is not the scheme's own. This, base_path and"
        " connections() are those for what authorize() or recover() gave last."
    )
    base_path: bytes = Attribute("Path of the upstream's base URL, without a slash at its end; mostly empty.")

    async def authorize() -> Authorization:
        """The token or key to send, refreshed first if it is due. Raises CredentialUnavailable where there is none."""

    async def recover(rejected: Authorization) -> Authorization:
        """After the upstream refused ``rejected`` (spec 3.4): another one. Raises CredentialUnavailable where no other
        is to be had."""

    def connections() -> ConnectionPool:
        """The pool of connections to this credential's upstream."""

    def observe(update: LimitsUpdate) -> None:
        """State learnt from this request's answer."""

    def rate_limited(until: float, explicit: bool) -> None:
        """The upstream answered 429 on account of the whole credential; ``until`` in Unix seconds.

        ``explicit``: the upstream named that time; otherwise it is a default of ours (F46). A model's own window
        comes through :meth:`observe`.
        """

    def block(reason: str, until: float) -> None:
        """The credential is not to be used until then (Unix seconds); ``reason``: the word for it (spec 5.1)."""

    def reject() -> None:
        """A remote instance refused the request for reasons of its own (spec 4.4)."""

    def poll_if_stale() -> None:
        """Ask for the usage if what is known is old. Returns at once."""

    def on_interrupt(callback: Callable[[Availability], None] | None) -> None:
        """Call ``callback`` once if the credential stops being usable; None or a first response byte disarms it."""

    def close(outcome: LeaseOutcome) -> None:
        """Give the credential back. Idempotent; the first outcome counts."""


class ICredential(Interface):
    """One account or one remote instance."""

    tag: str = Attribute("Unique name in the configuration.")
    is_external: bool = Attribute("True for a remote instance.")
    is_api_key: bool = Attribute("True where a commercial API key is used (spec 3.7).")

    def snapshot(now: float, model: str | None = None) -> CredentialSnapshot:
        """A frozen view; ``model`` takes windows of one model into account."""

    def lease(holder: Hashable = None) -> ILease:
        """Begin a use. Never fails: usability is the provider's business. ``holder``: who may interrupt it."""

    def interrupt(holder: Hashable, cause: Availability) -> None:
        """Interrupt the leases of ``holder`` as if the credential had stopped being usable (spec 6.5)."""

    def subscribe(listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that a status depends on; the result ends the subscription."""

    def poll_if_stale() -> None:
        """Start a poll if what is known is older than the poll interval; never waits (spec 3.5)."""

    def poll_if_unusable() -> None:
        """Start a poll if the credential cannot be used, to see whether it has recovered; never waits (spec 5.5)."""


class IProvider(Interface):
    """What a user is routed to: a single credential, or a pool."""

    def select(selection: Selection) -> ILease:
        """A lease on the credential that should serve. Raises :class:`ccmproxy.policy.balancing.NoCredential`
        where none can."""

    def keeps(selection: Selection, tag: str) -> bool:
        """Whether a turn may begin on a connection of this session that is open on the credential ``tag``.

        Looked at for every turn (F39); counts as a use of the session. If not, the client is to connect again, and
        :meth:`select` gives it another one, or says why there is none.
        """

    def credentials(allow_external: bool) -> Sequence[ICredential]:
        """All that may serve a user of that permission, usable or not, in order."""

    def subscribe(listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that a status depends on; the result ends the subscription."""

    def sessions(user: str) -> Sequence[tuple[SessionKey, Assignment]]:
        """Where the sessions of one user are (by name, empty without users); the most recently used first."""

    is_single_account: bool = Attribute("True for exactly one default credential (fast mode, spec 4.1).")
