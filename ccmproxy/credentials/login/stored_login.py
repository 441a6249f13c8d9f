"""The login of one account as its store holds it, and all that decides whether it can be used (spec 3.1, 3.2)."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from ccmproxy.dialects.oauth import CredentialFileError, Login, OAuthToken
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredentialStore
from ccmproxy.interfaces.facets import IAccountFormat

#: An unavailable login is looked for again on demand, at most this often (seconds; spec 3.1).
REREAD_INTERVAL = 2.0

_LOST = (
    "the login's refresh token is no longer accepted (another program may have used it, or its successor was lost"
    " before it could be saved): log in again with the official client"
)


class StoredLogin:
    """What was read from a store last, or written to it, and what is known of its refresh token.

    ``authorization`` is what can be used at present, None where ``problem`` says why there is nothing. ``document``:
    the whole content that it is from, None after a failed read. ``unsaved``: a login that was refreshed and could not
    be saved, after the one that it replaces. Makes no request and waits for nothing; the store is asked at once.
    """

    def __init__(
        self,
        store: ICredentialStore,
        account_format: IAccountFormat,
        clock: IReactorTime,
        changed: Callable[[], None],
        now: Callable[[], float],
    ) -> None:
        """``changed``: called after ``authorization`` or ``problem`` changed; must not raise. ``now``: Unix seconds."""
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
        #: Until the file changes: why the login cannot be used (hard failure).
        self._hard: str | None = None
        #: The refresh token that the token endpoint refused for good.
        self._dead_token: str | None = None
        #: No attempt at a refresh before this (Unix seconds), and why.
        self._blocked_until = 0.0
        self._blocked_by = ""

    # Reading ----------------------------------------------------------------------------------------------

    def load(self, changed: bool = False) -> None:
        """Read the store. ``changed``: it is known to have been touched, which lifts every block (spec 3.2)."""
        self._last_read = self._clock.seconds()
        try:
            document, authorization = self.read()
        except CredentialFileError as error:
            self.document = None
            self.take(None, str(error))
            return
        if self.unsaved is not None and not is_login(authorization, self.unsaved[0]):
            self.unsaved = None  # what it should have replaced is gone
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
        """The store's content and the login in it, without any consequence. Raises CredentialFileError where the store
        or its content cannot be read."""
        document = self._store.read()
        return document, self._format.parse(document)

    def reread(self) -> Login:
        """The store's login as it is now; also one that a hard failure keeps from being used. Raises
        CredentialUnavailable, a hard one, where the store or its content cannot be read."""
        self.load()
        if self.document is None:
            raise CredentialUnavailable(self.problem or "credential unavailable", hard=True)
        return self._format.parse(self.document)

    def may_be_looked_for(self) -> bool:
        """Was it read so long ago that a login which was missing then may be looked for again?"""
        return not 0 <= self._clock.seconds() - self._last_read < REREAD_INTERVAL

    def present(self) -> Login:
        """What can be used. Raises CredentialUnavailable where there is nothing, a hard one if only a change of the
        store will help."""
        if self.authorization is None:
            raise CredentialUnavailable(self.problem or "credential unavailable", hard=self._hard is not None)
        return self.authorization

    def take(self, authorization: Login | None, problem: str | None) -> None:
        """This can be used from now on; None: nothing, because of ``problem``."""
        if (authorization, problem) == (self.authorization, self.problem):
            return
        self.authorization = authorization
        self.problem = problem
        self._changed()

    # Writing ----------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """See :class:`.ICredentialStore`: raises CredentialFileError if a write is bound to fail."""
        self._store.check_writable()

    def write(self, document: bytes, token: OAuthToken) -> None:
        """Put ``token`` into ``document``, and that into the store. Raises OSError or CredentialFileError where it
        cannot be written; the store is as it was then."""
        merged = self._format.merge(document, token)
        self._store.write(merged)
        self.document = merged

    def saved(self) -> Login:
        """The refreshed login has been written: nothing stands against it any more. Returns it, for :meth:`take`."""
        assert self.document is not None
        self.unsaved = None
        self._hard = None
        return self._format.parse(self.document)

    # What stands against a refresh ------------------------------------------------------------------------

    def fail_hard(self, message: str) -> CredentialUnavailable:
        """Nothing but a change of the store will help. Returns what is to be raised."""
        self._hard = message
        self.take(None, message)
        return CredentialUnavailable(message, hard=True)

    def refused_for_good(self, token: OAuthToken) -> CredentialUnavailable:
        """The refresh token of ``token`` will never be accepted again. Returns what is to be raised."""
        self._dead_token = token.refresh_token
        return self.fail_hard(_LOST)

    def block_refresh(self, until: float, reason: str) -> None:
        """No refresh may be tried before ``until`` (Unix seconds), unless the store changes."""
        self._blocked_until = until
        self._blocked_by = reason

    def refresh_blocked(self, token: OAuthToken) -> str | None:
        """Why ``token`` may not be refreshed now, None if it may. Raises CredentialUnavailable where its refresh token
        was refused for good."""
        if token.refresh_token is not None and token.refresh_token == self._dead_token:
            raise self.fail_hard(_LOST)
        return self._blocked_by if self._now() < self._blocked_until else None

    def _is_dead(self, authorization: Login) -> bool:
        """Is this a login that is due, and whose refresh token was refused for good?"""
        return (
            isinstance(authorization, OAuthToken)
            and authorization.refresh_token is not None
            and authorization.refresh_token == self._dead_token
            and self._format.refresh_due(authorization, self._now())
        )


def is_login(authorization: Login, token: OAuthToken) -> bool:
    """Are these the same access and refresh token, whatever else is known of them?"""
    return (
        isinstance(authorization, OAuthToken)
        and authorization.access_token == token.access_token
        and authorization.refresh_token == token.refresh_token
    )
