"""The sender of requests to a service, and the credentials that it may use."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass

from ccmproxy.interfaces.credentials import ICredential, IProvider
from ccmproxy.state.aggregate import overall_availability
from ccmproxy.state.availability import Availability, CredentialSnapshot


@dataclass(frozen=True, slots=True)
class Caller:
    """A user's name (empty if the service has no users), the provider that serves the user, and permissions.

    ``own_remote``: if the user is another ccmproxy instance, the external credential by which this instance borrows
    from it. Its capacity is left out of the state that the user is shown. ``is_instance``: the operator says that the
    user is another instance, be it of ccmproxy or of sing-box. ``models``: globs of the models that the user may ask
    for; empty = every model (spec 9.6). ``max_connections``: requests that the user may have under way at a time; None
    = what the service says.
    """

    name: str
    provider: IProvider
    allow_external: bool = False
    own_remote: ICredential | None = None
    is_instance: bool = False
    models: tuple[str, ...] = ()
    max_connections: int | None = None

    def shown(self) -> list[ICredential]:
        """Return the credentials whose state this user is shown (spec 8.1)."""
        return [c for c in self.provider.credentials(self.allow_external) if c is not self.own_remote]

    def shown_snapshots(self, now: float) -> list[CredentialSnapshot]:
        """Return what these credentials are like at ``now`` (Unix seconds)."""
        return [credential.snapshot(now) for credential in self.shown()]

    def can_be_served(
        self, now: float, model: str | None, without: Container[str], only_accounts: bool = False
    ) -> bool:
        """Return whether a credential other than those with the tags ``without`` can serve ``model`` now.

        ``now`` in Unix seconds; ``model`` None if the model is not known. ``only_accounts``: no key and no remote
        instance, whose answers are no evidence (spec 12.1).
        """
        return any(
            credential.tag not in without
            and credential.snapshot(now, model).availability.usable
            and (not only_accounts or credential.is_account)
            for credential in self.provider.credentials(self.allow_external)
        )

    def availability(self, now: float, model: str | None) -> Availability:
        """Return the availability of all of the caller's credentials together (spec 8.1) at ``now`` (Unix seconds)."""
        credentials = self.provider.credentials(self.allow_external)
        return overall_availability([each.snapshot(now, model) for each in credentials], now)

    def lacking(self, ability: Callable[[ICredential], bool]) -> set[str]:
        """Return the tags of the caller's credentials that lack this ability."""
        credentials = self.provider.credentials(self.allow_external)
        return {credential.tag for credential in credentials if not ability(credential)}
