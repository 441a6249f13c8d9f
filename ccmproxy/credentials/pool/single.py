"""The provider of users that are routed to one credential (spec 6.1). For pools see
:mod:`ccmproxy.credentials.pool.pool`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.credentials.pool.members import may_find_out
from ccmproxy.interfaces.credentials import ICredential, ILease, IProvider
from ccmproxy.policy.balancing import NoCredential, Selection
from ccmproxy.policy.sessions import Assignment, SessionKey, SessionTable
from ccmproxy.state.availability import Availability

NOT_ALLOWED = "this user may not use external credentials"


@implementer(IProvider)
class SingleProvider:
    """Serves all requests with one credential. Sessions are remembered only to log each once and to show them in the
    status."""

    log = Logger()

    def __init__(self, credential: ICredential, now: Callable[[], float]) -> None:
        self._credential = credential
        self._now = now
        self._sessions = SessionTable()
        self.is_single_account = not credential.is_external

    def credentials(self, allow_external: bool) -> Sequence[ICredential]:
        """Return the credential if this user may use it, else nothing."""
        return (self._credential,) if allow_external or not self._credential.is_external else ()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that is visible in the status. Returns a function that unsubscribes."""
        return self._credential.subscribe(listener)

    def sessions(self, user: str) -> Sequence[tuple[SessionKey, Assignment]]:
        """Return the sessions of one user."""
        return self._sessions.of_user(user, self._now())

    def clock_set(self, by: float) -> None:
        """Note that Unix time was set by ``by`` seconds: sessions live on as if nothing had happened (spec 11)."""
        self._sessions.clock_set(by)

    def select(self, selection: Selection) -> ILease:
        """Return a lease on the credential if it is usable or, since there is no alternative, worth trying.

        Raises NoCredential when the credential is neither, was already tried for this request, or is not allowed for
        this user.
        """
        now = self._now()
        credential = self._credential
        view = credential.snapshot(now, selection.model)
        availability = view.availability
        tried = credential.tag in selection.excluded
        allowed = selection.allow_external or not credential.is_external
        rests_until = self._rests_until(selection, now)
        if allowed and not tried and rests_until:
            raise NoCredential(availability, rests_until)
        reset = availability.reset_at if availability.state == "rate_limited" else 0.0
        is_worth_trying = availability.worth_trying and may_find_out(view, selection)
        if tried or not allowed or not is_worth_trying:
            if availability.state == "unavailable":
                message = f"credential {credential.tag} is unavailable: {availability.message}"
                availability = replace(availability, message=message)
            elif not allowed:
                raise NoCredential(Availability("unavailable", "unavailable", NOT_ALLOWED))
            raise NoCredential(availability, reset if reset > now else 0.0)
        self._remember(selection, now)
        return credential.lease()

    def keeps(self, selection: Selection, tag: str) -> bool:
        """Return whether a new turn may use a connection to the credential ``tag``. The limits of a model do not
        matter, because a new connection would lead to the same credential."""
        now = self._now()
        if tag != self._credential.tag or not self._credential.snapshot(now).availability.worth_trying:
            return False
        self._remember(selection, now)
        return True

    #: There is nowhere else to go, so that nobody has to decide to stay.
    patience = 0.0

    def is_warm(self, selection: Selection, tag: str) -> bool:
        """Return whether the credential has served this session within the last minutes."""
        now = self._now()
        assignment = self._find(selection, now)
        return assignment is not None and assignment.is_warm(self._credential.tag, now)

    def refused(self, selection: Selection, tag: str) -> None:
        """Do nothing: there is nowhere else to go."""

    def served(self, selection: Selection, tag: str) -> None:
        """Note that the credential has served a request of this session: its prompt cache is warm there."""
        now = self._now()
        assignment = self._find(selection, now)
        if assignment is not None:
            assignment.served_at = now

    def _find(self, selection: Selection, now: float) -> Assignment | None:
        if selection.session is None:
            return None
        return self._sessions.find(
            SessionKey(selection.user, selection.session, selection.allow_external), now
        )

    def _rests_until(self, selection: Selection, now: float) -> float:
        """Return when the credential takes such a request again (Unix seconds); 0: it does now.

        Only rests are looked at: whoever has one credential is not helped by leaving it alone for anything else.
        """
        free_at = self._credential.free_at(selection.asked, now) if selection.asked is not None else 0.0
        if selection.asked is None or not free_at:
            return 0.0
        assignment = self._find(selection, now)
        is_warm = assignment is not None and assignment.is_warm(self._credential.tag, now)
        return free_at if self._credential.turns_away(selection.asked, is_warm, now) else 0.0

    def _remember(self, selection: Selection, now: float) -> None:
        if selection.session is None:
            return
        key = SessionKey(selection.user, selection.session, selection.allow_external)
        assignment = self._sessions.find(key, now)
        is_new = assignment is None
        if assignment is None:
            assignment = self._sessions.assign(key, self._credential.tag, now)
        if assignment.asked_for(selection.model) or is_new:
            self.log.info(
                "session {session} ({model}) is served by {credential}",
                session=selection.session,
                model=selection.model or "-",
                credential=self._credential.tag,
            )
