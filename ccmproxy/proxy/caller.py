"""Who sends requests to a service, and what they may use."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from ccmproxy.interfaces.credentials import ICredential, IProvider


@dataclass(frozen=True, slots=True)
class Caller:
    """A user's name (empty without users), what they are routed to, and what they may use.

    ``own_remote``: the credential that this user is, being another instance of ours: it is not told of its own share.
    """

    name: str
    provider: IProvider
    allow_external: bool = False
    own_remote: ICredential | None = None

    def shown(self) -> list[ICredential]:
        """The credentials whose state this user is shown (spec 8.1)."""
        return [c for c in self.provider.credentials(self.allow_external) if c is not self.own_remote]

    def can_be_served(self, now: float, model: str | None, without: Container[str]) -> bool:
        """Is there a credential that can serve ``model`` now, besides those with the tags ``without``?

        ``now`` in Unix seconds; ``model`` None: one that is not known.
        """
        return any(
            credential.tag not in without and credential.snapshot(now, model).availability.usable
            for credential in self.provider.credentials(self.allow_external)
        )

    def lacking(self, ability: Callable[[ICredential], bool]) -> set[str]:
        """Tags of the caller's credentials that have not got this ability."""
        credentials = self.provider.credentials(self.allow_external)
        return {credential.tag for credential in credentials if not ability(credential)}
