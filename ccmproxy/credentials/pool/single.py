"""Users that are routed to one credential (spec 6.1); those of many are in :mod:`ccmproxy.credentials.pool.pool`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.interfaces.credentials import ICredential, ILease, IProvider
from ccmproxy.policy.balancing import NoCredential, Selection
from ccmproxy.policy.sessions import Assignment, SessionKey, SessionTable
from ccmproxy.state.availability import Availability

NOT_ALLOWED = "this user may not use external credentials"


@implementer(IProvider)
class SingleProvider:
    """One credential serves everything. Sessions are only remembered to log each once, and to be shown."""

    log = Logger()

    def __init__(self, credential: ICredential, now: Callable[[], float]) -> None:
        self._credential = credential
        self._now = now
        self._sessions = SessionTable()
        self.is_single_account = not credential.is_external

    def credentials(self, allow_external: bool) -> Sequence[ICredential]:
        """The one, if this user may use it."""
        return (self._credential,) if allow_external or not self._credential.is_external else ()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change that a status depends on; the result ends the subscription."""
        return self._credential.subscribe(listener)

    def sessions(self, user: str) -> Sequence[tuple[SessionKey, Assignment]]:
        """The sessions of one user."""
        return self._sessions.of_user(user, self._now())

    def select(self, selection: Selection) -> ILease:
        """The credential, if it is usable.

        Or worth trying: there is nothing else to prefer. Raises NoCredential where it is neither, was tried for this
        request before, or is another instance that the user may not use.
        """
        now = self._now()
        credential = self._credential
        availability = credential.snapshot(now, selection.model).availability
        tried = credential.tag in selection.excluded
        allowed = selection.allow_external or not credential.is_external
        if tried or not allowed or not availability.worth_trying:
            if availability.state == "unavailable":
                message = f"credential {credential.tag} is unavailable: {availability.message}"
                availability = replace(availability, message=message)
            elif not allowed:
                raise NoCredential(Availability("unavailable", "unavailable", NOT_ALLOWED))
            raise NoCredential(availability)
        self._remember(selection, now)
        return credential.lease()

    def keeps(self, selection: Selection, tag: str) -> bool:
        """For a model that is closed here another connection is of no help."""
        now = self._now()
        if tag != self._credential.tag or not self._credential.snapshot(now).availability.worth_trying:
            return False
        self._remember(selection, now)
        return True

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
