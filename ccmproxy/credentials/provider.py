"""What users are routed to. Today: one credential each (spec 6.1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.balancing import NoCredential, Selection
from ccmproxy.interfaces import ICredential, ILease, IProvider
from ccmproxy.sessions import SeenSessions


@implementer(IProvider)
class SingleProvider:
    """One credential serves everything. Sessions are only remembered to log each once."""

    log = Logger()

    def __init__(self, credential: ICredential, now: Callable[[], float]) -> None:
        self._credential = credential
        self._now = now
        self._sessions = SeenSessions()
        self.is_single_account = not credential.is_external

    def credentials(self, allow_external: bool) -> Sequence[ICredential]:
        """The one, if this user may use it."""
        return (self._credential,) if allow_external or not self._credential.is_external else ()

    def select(self, selection: Selection) -> ILease:
        """The credential, if it is usable.

        Or worth trying: there is nothing else to prefer.
        """
        now = self._now()
        credential = self._credential
        availability = credential.snapshot(now, selection.model).availability
        tried = credential.tag in selection.excluded
        if tried or not availability.worth_trying:
            if availability.state == "unavailable":
                message = f"credential {credential.tag} is unavailable: {availability.message}"
                availability = replace(availability, message=message)
            raise NoCredential(availability)
        if selection.session is not None and self._sessions.is_new(selection.session, selection.model, now):
            self.log.info(
                "session {session} ({model}) is served by {credential}",
                session=selection.session,
                model=selection.model or "-",
                credential=credential.tag,
            )
        return credential.lease()
