"""Providers and credentials for tests of single parts of the proxy, without a service."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from zope.interface import implementer

from ccmproxy.interfaces.credentials import ICredential, ILease, IProvider
from ccmproxy.policy.balancing import NoCredential, Selection
from ccmproxy.policy.sessions import Assignment, SessionKey
from ccmproxy.state.availability import Availability, Caps, CredentialSnapshot, CredentialState, snapshot
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import HeadersObserved, Input, TokenAvailable
from ccmproxy.state.transitions import transition
from tests.states import NOW, said


@implementer(ICredential)
class ShownCredential:
    """A credential whose state is shown, and which serves nothing. ``asked``: how often a poll was requested."""

    is_api_key = False
    identity = ""

    def __init__(self, tag: str, short: float | None = None, *, is_external: bool = False) -> None:
        self.tag = tag
        self.is_external = is_external
        self.is_account = not is_external
        self.asked = 0
        self.snapshots = 0
        self.use(short)

    def use(self, short: float | None) -> None:
        """Set the utilization of the short window (percent); None: unknown."""
        state, _ = transition(CredentialState(), TokenAvailable(1.0), NOW, Caps())
        if short is not None:
            state, _ = transition(state, HeadersObserved(said(short, short)), NOW, Caps())
        self._view = snapshot(state, Caps(), NOW, tag=self.tag, is_external=self.is_external, model=None)

    def snapshot(self, now: float, model: str | None = None) -> CredentialSnapshot:
        self.snapshots += 1
        return self._view

    def poll_if_stale(self) -> None:
        self.asked += 1

    def poll_if_unusable(self) -> None:
        self.asked += 1

    def turns_away(self, asked: Combination, is_warm: bool, now: float) -> bool:
        return False

    def free_at(self, asked: Combination, now: float) -> float:
        return 0.0

    def learn(self, event: Input) -> None:
        raise AssertionError("only looked at")

    def lease(self, holder: Hashable = None) -> ILease:
        raise AssertionError("only looked at")

    def interrupt(self, holder: Hashable, cause: Availability) -> None:
        raise AssertionError("only looked at")

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


@implementer(IProvider)
class ShownProvider:
    """A provider whose credentials are shown, and never selected."""

    is_single_account = False
    patience = 0.0

    def __init__(self, *credentials: ShownCredential) -> None:
        self._credentials = credentials

    def credentials(self, allow_external: bool) -> Sequence[ICredential]:
        return [each for each in self._credentials if allow_external or not each.is_external]

    def select(self, selection: Selection) -> ILease:
        raise NoCredential(Availability("unavailable", "unavailable", "nobody"))

    def keeps(self, selection: Selection, tag: str) -> bool:
        return False

    def is_warm(self, selection: Selection, tag: str) -> bool:
        return False

    def served(self, selection: Selection, tag: str) -> None:
        raise AssertionError("serves nothing")

    def refused(self, selection: Selection, tag: str) -> None:
        raise AssertionError("serves nothing")

    def sessions(self, user: str) -> Sequence[tuple[SessionKey, Assignment]]:
        return ()

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        return lambda: None
