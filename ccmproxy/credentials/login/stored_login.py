"""The login of one account as its store holds it, and the facts that decide whether it is usable (spec 3.1, 3.2)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from ccmproxy.dialects.oauth import CredentialFileError, Login, OAuthToken
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredentialStore
from ccmproxy.interfaces.facets import IAccountFormat

#: Shortest interval between rereads of a store whose login is unavailable (seconds; spec 3.1).
REREAD_INTERVAL = 2.0

_LOST = (
    "the login's refresh token is no longer accepted (another program may have used it, or its successor was lost"
    " before it could be saved): log in again with the official client"
)


class StoredLogin:
    """The login that was last read from a store or written to it, and what is known about its refresh token.

    ``authorization``: the usable token or key; if it is None, ``problem`` says why there is none. ``document``: the
    whole content of the store, None after a failed read. ``unsaved``: (old, new) login if a refreshed login could not
    be saved. All methods are synchronous and make no requests.
    """

    def __init__(
        self,
        store: ICredentialStore,
        account_format: IAccountFormat,
        clock: IReactorTime,
        changed: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        """``changed`` is called after ``authorization`` or ``problem`` has changed, and must not raise. ``now`` returns
        Unix seconds."""
        self.authorization: Login | None = None
        self.problem: str | None = "credential not loaded yet"
        self.document: bytes | None = None
        self.unsaved: tuple[OAuthToken, OAuthToken] | None = None
        self._store = store
        self._format = account_format
        self._clock = clock
        self._changed = changed
        self._now = now
        self._last_read = float("-inf")
        #: The reason for a hard failure: the login is unusable until the store changes.
        self._hard: str | None = None
        #: The refresh token that the token endpoint has permanently refused.
        self._dead_token: str | None = None
        #: No refresh is attempted before this time (Unix seconds), for the reason that follows.
        self._blocked_until = 0.0
        self._blocked_by = ""

    # Reading ----------------------------------------------------------------------------------------------

    def load(self, changed: bool = False) -> None:
        """Read the store. ``changed``: the store is known to have changed, which lifts every block (spec 3.2)."""
        self._last_read = self._clock.seconds()
        try:
            document, authorization = self.read()
        except CredentialFileError as error:
            self.document = None
            self.take(None, str(error))
            return
        if self.unsaved is not None and not is_login(authorization, self.unsaved[0]):
            self.unsaved = None  # The login that it should have replaced is gone.
        if changed or document != self.document:
            self._hard = None
            self._blocked_until = 0.0
        self.document = document
        if self._hard is None and self._is_dead(authorization):
            self._hard = _LOST
        if self._hard is None:
            self.take(authorization, None)
        else:
            self.take(None, self._hard)

    def read(self) -> tuple[bytes, Login]:
        """Return the content of the store and the login in it, without changing this object. Raises CredentialFileError
        when the store cannot be read or its content cannot be parsed."""
        document = self._store.read()
        return document, self._format.parse(document)

    def reread(self) -> Login:
        """Read the store and return its login, even one that is unusable because of a hard failure. Raises a hard
        CredentialUnavailable when the store cannot be read or its content cannot be parsed."""
        self.load()
        if self.document is None:
            raise CredentialUnavailable(self.problem or "credential unavailable", hard=True)
        return self._format.parse(self.document)

    def may_be_looked_for(self) -> bool:
        """Return whether the last read is old enough to look for a missing login again."""
        return not 0 <= self._clock.seconds() - self._last_read < REREAD_INTERVAL

    def present(self) -> Login:
        """Return the usable token or key. Raises CredentialUnavailable when there is none; it is hard if only a change
        of the store can help."""
        if self.authorization is None:
            raise CredentialUnavailable(self.problem or "credential unavailable", hard=self._hard is not None)
        return self.authorization

    def take(self, authorization: Login | None, problem: str | None) -> None:
        """Set the usable token or key. None: there is none, because of ``problem``."""
        if (authorization, problem) == (self.authorization, self.problem):
            return
        self.authorization = authorization
        self.problem = problem
        self._changed()

    # Writing ----------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise CredentialFileError if a write is bound to fail. See :class:`.ICredentialStore`."""
        self._store.check_writable()

    def write(self, document: bytes, token: OAuthToken) -> None:
        """Merge ``token`` into ``document`` and write that to the store. Raises OSError or CredentialFileError when the
        store cannot be written; the store is then unchanged."""
        merged = self._format.merge(document, token)
        self._store.write(merged)
        self.document = merged

    def saved(self) -> Login:
        """Clear the hard failure after the refreshed login was written. Returns that login, for :meth:`take`."""
        assert self.document is not None
        self.unsaved = None
        self._hard = None
        return self._format.parse(self.document)

    # Obstacles to a refresh -------------------------------------------------------------------------------

    def fail_hard(self, message: str) -> CredentialUnavailable:
        """Record a hard failure, which only a change of the store can end. Returns the exception to raise."""
        self._hard = message
        self.take(None, message)
        return CredentialUnavailable(message, hard=True)

    def refused_for_good(self, token: OAuthToken) -> CredentialUnavailable:
        """Record that the refresh token of ``token`` was permanently refused. Returns the exception to raise."""
        self._dead_token = token.refresh_token
        return self.fail_hard(_LOST)

    def block_refresh(self, until: float, reason: str) -> None:
        """Allow no refresh before ``until`` (Unix seconds) unless the store changes."""
        self._blocked_until = until
        self._blocked_by = reason

    def refresh_blocked(self, token: OAuthToken) -> str | None:
        """Return why ``token`` may not be refreshed now, or None if it may. Raises CredentialUnavailable when its
        refresh token was permanently refused."""
        if token.refresh_token is not None and token.refresh_token == self._dead_token:
            raise self.fail_hard(_LOST)
        return self._blocked_by if self._now() < self._blocked_until else None

    def _is_dead(self, authorization: Login) -> bool:
        """Return whether this login is due for a refresh and its refresh token was permanently refused."""
        return (
            isinstance(authorization, OAuthToken)
            and authorization.refresh_token is not None
            and authorization.refresh_token == self._dead_token
            and self._format.refresh_due(authorization, self._now())
        )


def is_login(authorization: Login, token: OAuthToken) -> bool:
    """Return whether both have the same access token and refresh token, whatever their other fields."""
    return (
        isinstance(authorization, OAuthToken)
        and authorization.access_token == token.access_token
        and authorization.refresh_token == token.refresh_token
    )
