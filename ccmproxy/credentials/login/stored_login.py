"""The login of one account as its store holds it, and the facts that decide whether it is usable (spec 3.1, 3.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ccmproxy.dialects.oauth import CredentialFileError, Login, OAuthToken
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredentialStore
from ccmproxy.interfaces.facets import IAccountFormat
from ccmproxy.policy.delays import clamped_delay, growing_delay
from ccmproxy.state.durations import format_duration

#: Shortest interval between rereads of a store whose login is unavailable (seconds; spec 3.1).
REREAD_INTERVAL = 2.0
#: Delay after the first attempt that failed for a passing cause, and the longest one (seconds; spec 12.4). The delay
#: doubles with each failure.
FIRST_DELAY = 5.0
LONGEST_DELAY = 300.0
#: The longest delay where the cause is in this machine (a full disk, a held lock): such an attempt costs nobody
#: anything, and the trouble is to be over within a minute after its cause (spec 12.4).
LONGEST_LOCAL_DELAY = 40.0


class LoginUnread(Exception):
    """The store cannot be read for a passing cause. ``error`` says why."""

    def __init__(self, error: CredentialFileError) -> None:
        super().__init__(error.public)
        self.error = error


class StoredLogin:
    """The login that was last read from a store or written to it, and what is known about its refresh token.

    ``authorization``: the usable token or key; if it is None, ``problem`` says why there is none. ``document``: the
    whole content of the store, None after a failed read. ``unsaved``: (old, new) login if a refreshed login could not
    be saved. ``unread``: why the last read failed, None if it did not. All methods are synchronous and make no
    requests.

    A login becomes unusable for one reason that only a person can end: its refresh token is dead, as the upstream says
    that it will never accept it again. Every other obstacle to a refresh only delays the next attempt, and a store that
    cannot be read for a passing cause leaves the login in service that was read last (spec 12.4).
    """

    log = Logger()

    def __init__(
        self,
        store: ICredentialStore,
        account_format: IAccountFormat,
        clock: IReactorTime,
        changed: Callable[[], None],
        now: Callable[[], float],
        tag: str = "",
    ) -> None:
        """``tag`` names the credential in the log. ``changed`` is called after ``authorization``, ``problem`` or
        :meth:`back_in` has changed, and must not raise. ``now`` returns Unix seconds."""
        self.authorization: Login | None = None
        self.problem: str | None = "credential not loaded yet"
        self.document: bytes | None = None
        self.unsaved: tuple[OAuthToken, OAuthToken] | None = None
        self.unread: CredentialFileError | None = None
        #: No refresh is attempted before this time (seconds of the clock), for the reason in :attr:`blocked_by`.
        self.blocked_until = 0.0
        self.blocked_by = ""
        self._tag = tag
        self._store = store
        self._format = account_format
        self._clock = clock
        self._changed = changed
        self._now = now
        self._last_read = float("-inf")
        #: How many steps the delay has grown since the store could not be read for a passing cause, and when it is read
        #: again (seconds of ``clock``). A store that is missing or broken is watched instead.
        self._unread_times = 0
        self._read_again_at = 0.0
        #: Whether the login is unusable because its refresh token is dead. Ends when the store changes.
        self._is_dead = False
        #: The refresh token that the token endpoint has permanently refused.
        self._dead_token: str | None = None
        #: How many attempts have failed since the last success, by the kind of their passing cause.
        self._failures: dict[str, int] = {}
        #: The login whose identity is known although its file does not name it.
        self._identified: OAuthToken | None = None

    # Reading ----------------------------------------------------------------------------------------------

    def load(self, changed: bool = False) -> None:
        """Read the store. ``changed``: the store is known to have changed, which lifts every block (spec 3.2)."""
        self._last_read = self._clock.seconds()
        try:
            document, authorization = self.read()
        except CredentialFileError as error:
            self._not_read(error)
            return
        self._was_read()
        if self._store.clean_up(self._is_newer):
            document, authorization = self._again(document, authorization)
        if self.unsaved is not None and not is_login(authorization, self.unsaved[0]):
            self.unsaved = None  # The login that it should have replaced is gone.
        if changed or document != self.document:
            self._is_dead = False
            self.unblock()
        self.document = document
        if self._was_refused_for_good(authorization):
            self._is_dead = True
        if self._is_dead:
            self.take(None, self._death())
        else:
            self.take(authorization, None)

    def _not_read(self, error: CredentialFileError) -> None:
        """Note that the store could not be read. What is known of the login stays if the cause is a passing one."""
        is_news = self.unread is None or str(self.unread) != str(error)
        self.unread = error
        is_next_step = error.is_passing and self.read_again_in() <= 0
        if not error.is_passing:
            self._unread_times, self._read_again_at = 0, 0.0
        elif is_next_step:
            self._unread_times += 1
            delay = growing_delay(self._unread_times, FIRST_DELAY, LONGEST_LOCAL_DELAY)
            self._read_again_at = self._clock.seconds() + delay
        stays = error.is_passing and self.document is not None
        if is_news:
            self.log.warn(
                "{tag}: {problem}{stays}{again}",
                tag=self._tag,
                problem=str(error),
                stays="; the login that was read last stays in service" if stays else "",
                again=f"; read again in {format_duration(self.read_again_in())}" if is_next_step else "",
            )
        if stays:
            return
        self.document = None
        was_told = (self.authorization, self.problem) == (None, error.public)
        self.take(None, error.public)
        if was_told and is_next_step:
            self._changed()  # The time of the next attempt has changed.

    def _was_read(self) -> None:
        if self.unread is not None:
            self.log.info("{tag}: its login is read again", tag=self._tag)
        self.unread = None
        self._unread_times = 0
        self._read_again_at = 0.0

    def read_again_in(self) -> float:
        """Return the seconds until a store that could not be read for a passing cause has to be read again; 0 or less:
        now, or not at all if :attr:`unread` is no such cause."""
        return self._read_again_at - self._clock.seconds()

    def read(self) -> tuple[bytes, Login]:
        """Return the content of the store and the login in it, without changing this object. Raises CredentialFileError
        when the store cannot be read or its content cannot be parsed."""
        document = self._store.read()
        return document, self._with_identity(self._format.parse(document))

    def _again(self, document: bytes, authorization: Login) -> tuple[bytes, Login]:
        """Return what :meth:`read` returns, or the arguments when it cannot be read."""
        try:
            return self.read()
        except CredentialFileError:
            return document, authorization

    def reread(self) -> Login:
        """Read the store and return its login, even one that is unusable because its refresh token is dead. Raises
        LoginUnread when the store cannot be read for a passing cause, and a hard CredentialUnavailable when it is
        missing or its content cannot be parsed."""
        self.load()
        if self.unread is not None and self.unread.is_passing:
            raise LoginUnread(self.unread)
        if self.document is None:
            raise CredentialUnavailable(self.problem or "credential unavailable", hard=True)
        return self._with_identity(self._format.parse(self.document))

    def may_be_looked_for(self) -> bool:
        """Return whether the last read is old enough to look for a missing login again."""
        return not 0 <= self._clock.seconds() - self._last_read < REREAD_INTERVAL

    def present(self) -> Login:
        """Return the usable token or key. Raises CredentialUnavailable when there is none; it is hard if only a change
        of the store can help."""
        if self.authorization is None:
            message = self.problem or "credential unavailable"
            raise CredentialUnavailable(message, hard=self._is_dead, retry_in=self.back_in())
        return self.authorization

    def back_in(self) -> float | None:
        """Return the seconds until a login that is missing for a passing cause is looked for again. None if there is a
        login, or if it is missing for another cause."""
        if self.authorization is not None or self.unread is None or not self.unread.is_passing:
            return None
        return max(self.read_again_in(), 0.0)

    def take(self, authorization: Login | None, problem: str | None) -> None:
        """Set the usable token or key. None: there is none, because of ``problem``."""
        if (authorization, problem) == (self.authorization, self.problem):
            return
        self.authorization = authorization
        self.problem = problem
        self._changed()

    def _is_newer(self, document: bytes, left: bytes) -> bool:
        """Return whether ``left``, a file that a crash left behind, holds the successor of the login in ``document``:
        the same account's, with a refresh token that was issued later (spec 3.2 point 6)."""
        try:
            old, new = self._format.parse(document), self._format.parse(left)
        except CredentialFileError:
            return False
        if not isinstance(old, OAuthToken) or not isinstance(new, OAuthToken):
            return False
        if new.refresh_token in (None, old.refresh_token, self._dead_token):
            return False
        is_same_account = old.account_id == new.account_id
        return is_same_account and _issued(new) > _issued(old)

    # Whose login it is ------------------------------------------------------------------------------------

    def identify(self, token: OAuthToken) -> None:
        """Remember whose login ``token`` is, for files that do not name it (spec 12.5)."""
        if token.account_id is not None:
            self._identified = token

    def _with_identity(self, authorization: Login) -> Login:
        """Return the login with the identity that is known of it: of its access token, or of its refresh token, which
        only its own account can have."""
        known = self._identified
        if not isinstance(authorization, OAuthToken) or authorization.account_id is not None or known is None:
            return authorization
        is_known = authorization.access_token == known.access_token or (
            authorization.refresh_token is not None and authorization.refresh_token == known.refresh_token
        )
        return replace(authorization, account_id=known.account_id) if is_known else authorization

    # Writing ----------------------------------------------------------------------------------------------

    def check_writable(self) -> None:
        """Raise CredentialFileError if a write is bound to fail. See :class:`.ICredentialStore`."""
        self._store.check_writable()

    def holds(self, token: OAuthToken) -> bool:
        """Return whether the content of the store, as it was read last, is as if ``token`` had been written to it."""
        document = self.document
        try:
            return document is not None and (
                self._format.parse(self._format.merge(document, token)) == self._format.parse(document)
            )
        except CredentialFileError:
            return False

    def write(self, document: bytes, token: OAuthToken) -> None:
        """Merge ``token`` into ``document`` and write that to the store. Raises OSError or CredentialFileError when the
        store cannot be written; the store is then unchanged."""
        merged = self._format.merge(document, token)
        self._store.write(merged)
        self.document = merged
        self._was_read()

    def saved(self, token: OAuthToken) -> Login:
        """Note that the refreshed login ``token`` was written. Returns it as the store holds it, for :meth:`take`."""
        assert self.document is not None
        self.unsaved = None
        self._is_dead = False
        self.unblock()
        self.identify(token)
        return self._with_identity(self._format.parse(self.document))

    # Obstacles to a refresh -------------------------------------------------------------------------------

    def refused_for_good(self, token: OAuthToken) -> CredentialUnavailable:
        """Record that the refresh token of ``token`` was permanently refused. Returns the exception to raise."""
        self._dead_token = token.refresh_token
        self._is_dead = True
        self.take(None, self._death())
        return CredentialUnavailable(self._death(), hard=True)

    def postpone(
        self,
        reason: str,
        named: float | None = None,
        first: float = FIRST_DELAY,
        longest: float = LONGEST_DELAY,
        kind: str = "machine",
    ) -> float:
        """Allow no refresh for a while because of ``reason``, a passing cause. Returns for how long (seconds).

        The delay is ``first`` after the first failure, and doubles with each further one of the same ``kind`` up to
        ``longest``: a disk that was full for a while must not lengthen the wait after a refusal of the token endpoint.
        ``named``: the delay that the upstream named, which counts within its clamp instead.
        """
        failures = self._failures[kind] = self._failures.get(kind, 0) + 1
        delay = clamped_delay(named, growing_delay(failures, first, longest), first)
        self.block_refresh(self._clock.seconds() + delay, reason)
        return delay

    def block_refresh(self, until: float, reason: str) -> None:
        """Allow no refresh before ``until`` (seconds of the clock) unless the store changes."""
        self.blocked_until = until
        self.blocked_by = reason

    def unblock(self) -> None:
        """Allow refreshes at once, and forget earlier failures."""
        self.blocked_until = 0.0
        self.blocked_by = ""
        self._failures.clear()

    def refresh_blocked(self, token: OAuthToken) -> str | None:
        """Return why ``token`` may not be refreshed now, or None if it may. Raises CredentialUnavailable when its
        refresh token was permanently refused."""
        if token.refresh_token is not None and token.refresh_token == self._dead_token:
            raise self.refused_for_good(token)
        return self.blocked_by if self.blocked_for > 0 else None

    @property
    def blocked_for(self) -> float:
        """For how long no refresh is attempted (seconds); zero or less: one may be."""
        return self.blocked_until - self._clock.seconds()

    def delayed(self, message: str) -> CredentialUnavailable:
        """Return the soft exception for a login that is unusable until a refresh succeeds: ``message``, and when the
        next attempt is made."""
        wait = max(self.blocked_for, 0.0)
        return CredentialUnavailable(self.with_next_try(message), retry_in=wait)

    def with_next_try(self, message: str) -> str:
        """Return ``message`` with the time until the next attempt at a refresh, if that is in the future."""
        wait = math.ceil(self.blocked_for)
        return f"{message}; next try in {format_duration(wait)}" if wait > 0 else message

    def _death(self) -> str:
        return (
            "the login's refresh token is no longer accepted (another program may have used it, or its successor was"
            " lost before it could be saved): ask the operator of this proxy to log in again with the official client"
            f" ({self._format.how_to_log_in})"
        )

    def _was_refused_for_good(self, authorization: Login) -> bool:
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


def _issued(token: OAuthToken) -> float:
    """Return a number that is larger the later a login of the same account was issued: Unix seconds of its last
    refresh or, as all of them last equally long, of its expiry; 0 = unknown."""
    return token.last_refresh or token.expires_at or 0.0
