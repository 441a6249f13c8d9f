"""Many credentials behind one name: sessions are spread over them, and stay where they are (spec 6.2 to 6.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.interfaces.credentials import ICredential, ILease, IProvider
from ccmproxy.policy.balancing import (
    Candidate,
    Choice,
    NoCredential,
    Selection,
    StrategyName,
    fallback,
    least_used,
    round_robin,
    should_rebalance,
    uniform,
)
from ccmproxy.policy.sessions import Assignment, RecentAssignments, SessionKey, SessionTable
from ccmproxy.state.aggregate import overall_availability
from ccmproxy.state.availability import Availability, CredentialSnapshot


@dataclass(frozen=True, slots=True)
class PoolRules:
    """How a pool chooses. ``rebalance_threshold``: percent, 0 = off (spec 6.5). ``spread_subagents``: subagents of a
    session are sessions of their own (F11)."""

    strategy: StrategyName = "least-used"
    rebalance_threshold: float = 0.0
    spread_subagents: bool = False


class PoolScope(NamedTuple):
    """Holds the leases of one pool and selection scope: what rebalancing interrupts, and nothing beyond it."""

    pool: str
    allow_external: bool


@implementer(IProvider)
class Pool:
    """Chooses among ``members``, in the order of the configuration.

    A session keeps its credential until that cannot serve it, may not any more, or is rebalanced. Everything here
    happens within one call: two requests of one session never see it half moved.
    """

    log = Logger()
    is_single_account = False

    def __init__(
        self,
        tag: str,
        members: Sequence[ICredential],
        rules: PoolRules,
        now: Callable[[], float],
        random: Callable[[], float],
        *,
        takes_keys: bool = True,
    ) -> None:
        """``now``: Unix seconds. ``random``: numbers in [0, 1). ``takes_keys``: False where keys of the commercial API
        cannot stand in for accounts (spec 3.7): a member that turns out to be one is passed over."""
        self.tag = tag
        self._rules = rules
        self._now = now
        self._random = random
        self._takes_keys = takes_keys
        self._members = tuple(members)
        self._by_tag = {member.tag: member for member in members}
        self._sessions = SessionTable()
        self._recent = RecentAssignments()
        #: Tag that round-robin chose last.
        self._last: str | None = None
        self._listeners: dict[object, Callable[[], None]] = {}
        self._unsubscribe: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<Pool {self.tag} {self._rules.strategy} members={len(self._members)}>"

    # Life -----------------------------------------------------------------------------------------------------

    def reconfigure(self, members: Sequence[ICredential], rules: PoolRules) -> None:
        """Go over to what a reloaded configuration says. Sessions on members that stay the same stay there."""
        kept = {id(member) for member in members}
        self._sessions.forget_all(member.tag for member in self._members if id(member) not in kept)
        self._rules = rules
        self._members = tuple(members)
        self._by_tag = {member.tag: member for member in members}
        self._listen()
        self._changed()

    def _listen(self) -> None:
        """To every member once, as long as somebody listens to the pool."""
        for end in self._unsubscribe:
            end()
        members = self._members if self._listeners else ()
        self._unsubscribe = [member.subscribe(self._changed) for member in members]

    def _changed(self) -> None:
        for listener in list(self._listeners.values()):
            try:
                listener()
            except Exception:
                self.log.failure("pool {pool}: telling a change failed", pool=self.tag)

    # IProvider ------------------------------------------------------------------------------------------------

    def credentials(self, allow_external: bool) -> Sequence[ICredential]:
        """The members that may serve a user of that permission, usable or not, in order (spec 6.6)."""
        return [
            member
            for member in self._members
            if (allow_external or not member.is_external) and (self._takes_keys or not member.is_api_key)
        ]

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change of a member that a status depends on."""
        key = object()
        self._listeners[key] = listener
        if len(self._listeners) == 1:
            self._listen()

        def unsubscribe() -> None:
            if self._listeners.pop(key, None) is not None and not self._listeners:
                self._listen()

        return unsubscribe

    def sessions(self, user: str) -> Sequence[tuple[SessionKey, Assignment]]:
        """Where the sessions of one user are."""
        return self._sessions.of_user(user, self._now())

    def select(self, selection: Selection) -> ILease:
        """A lease on the session's credential, or on the one that the strategy chooses. Raises NoCredential where no
        member can serve the request."""
        now = self._now()
        key = self._key(selection)
        assignment = self._sessions.find(key, now) if key is not None else None
        # A WebSocket's handshake names no model: it goes to where the last one asked for is served.
        model = selection.model or (assignment.model if assignment is not None else None)
        why = ""
        while assignment is not None:
            why = self._why_leave(selection, assignment, model, now)
            if not why:
                self._note_model(selection, assignment)
                return self._lease(assignment.credential, selection)
            before = assignment
            assignment = self._sessions.find(key, now) if key is not None else None
            if assignment is before:
                break
            # Rebalancing has interrupted another request of this session, which has found a place for it meanwhile.
        candidates = self._candidates(selection, model, now)
        if not candidates:
            if key is not None and assignment is not None:
                self._return(key, selection, assignment, now)
            raise NoCredential(self._availability(selection, model, now))
        choice = self._choose(candidates, now)
        self._recent.add(choice.tag, now)
        if key is not None:
            self._assign(key, selection, choice, assignment, why, now)
        return self._lease(choice.tag, selection)

    def keeps(self, selection: Selection, tag: str) -> bool:
        """Whether a turn may begin on a connection of this session that is on ``tag`` (F39)."""
        now = self._now()
        member = self._allowed(selection, tag)
        if member is None or not member.snapshot(now).availability.worth_trying:
            return False
        key = self._key(selection)
        assignment = self._sessions.find(key, now) if key is not None else None
        if assignment is not None and assignment.credential == tag:
            self._note_model(selection, assignment)
        # Without a session the next handshake knows no model either, and would come back to the same one.
        model = selection.model if key is not None else None
        why = self._why_leave_credential(selection, tag, model, now)
        # Where no other can serve either, this connection is as good as any.
        elsewhere = Selection(
            allow_external=selection.allow_external, excluded=selection.excluded | frozenset((tag,))
        )
        return not why or not self._candidates(elsewhere, model, now)

    # Sessions -------------------------------------------------------------------------------------------------

    def _key(self, selection: Selection) -> SessionKey | None:
        """None for a request without a session id: it is not remembered."""
        if selection.session is None:
            return None
        agent = selection.agent or "" if self._rules.spread_subagents else ""
        return SessionKey(selection.user, selection.session, selection.allow_external, agent)

    def _why_leave(self, selection: Selection, assignment: Assignment, model: str | None, now: float) -> str:
        """Why a session does not go on where it is, in words for the log; empty if it does."""
        if not assignment.credential:
            return f"all sessions leave {assignment.came_from}"
        return self._why_leave_credential(selection, assignment.credential, model, now)

    def _why_leave_credential(self, selection: Selection, tag: str, model: str | None, now: float) -> str:
        """The same for a session on ``tag``.

        Failed polls of the usage endpoint move nobody: they say nothing of the account (compare F6), and a
        conversation that moves loses its prompt cache.
        """
        if tag in selection.excluded:
            return f"{tag} did not serve it"
        member = self._allowed(selection, tag)
        if member is None:
            return f"{tag} may not serve it any more"
        view = member.snapshot(now, model)
        availability = view.availability
        if not availability.usable and availability.reason != "poll_failed":
            candidates = self._candidates(selection, model, now)
            # Where all that are left are only worth trying, going from one to another is of no help.
            if not availability.worth_trying or any(each.snapshot.availability.usable for each in candidates):
                return f"{tag}: {availability.message}"
        if self._rules.strategy == "fallback":
            candidates = self._candidates(selection, model, now)
            if candidates and fallback(candidates).tag != tag:
                return "one before it in the list can serve"
        elif self._rules.strategy == "least-used" and self._rules.rebalance_threshold > 0:
            candidates = self._candidates(selection, model, now)
            if candidates and self._rebalance(view, _best(candidates, now), selection, now):
                return f"{tag} is much more used than others"
        return ""

    def _rebalance(self, held: CredentialSnapshot, better: Choice, selection: Selection, now: float) -> bool:
        """Spec 6.5: if another is much less used, everything of this scope leaves the held one."""
        snapshot = better.candidate.snapshot
        if not should_rebalance(held, snapshot, self._rules.rebalance_threshold, now):
            return False
        allow_external = selection.allow_external
        count = self._sessions.release_all(held.tag, allow_external)
        self.log.info(
            "pool {pool} rebalances: {count} sessions leave {credential}, {better} is less used ({reason})",
            pool=self.tag,
            count=count,
            credential=held.tag,
            better=better.tag,
            reason=better.reason,
        )
        message = f"its sessions move, {better.tag} is less used"
        cause = Availability("temporarily_blocked", "rebalanced", message)
        self._by_tag[held.tag].interrupt(PoolScope(self.tag, allow_external), cause)
        return True

    def _assign(
        self,
        key: SessionKey,
        selection: Selection,
        choice: Choice,
        before: Assignment | None,
        why: str,
        now: float,
    ) -> None:
        assignment = self._sessions.assign(key, choice.tag, now)
        assignment.asked_for(selection.model)
        origin = (before.credential or before.came_from) if before is not None else ""
        if before is not None and origin in selection.excluded:
            assignment.came_from = before.came_from if before.came_from in selection.excluded else origin
        if origin and origin != choice.tag:
            self.log.info(
                "session {session} of {user} ({model}) moves from {before} to {credential} in pool {pool}:"
                " {why}; {reason}",
                session=selection.session,
                user=selection.user or "-",
                model=selection.model or "-",
                before=origin,
                credential=choice.tag,
                pool=self.tag,
                why=why,
                reason=choice.reason,
            )
        elif before is None:
            self._log_assignment(selection, choice.tag, choice.reason)

    def _return(self, key: SessionKey, selection: Selection, assignment: Assignment, now: float) -> None:
        """Nobody could serve the request: if that was not the fault of the credential that the session was on, as when
        the network is down, the session is there still, and so is its prompt cache."""
        first = assignment.came_from
        member = self._allowed(selection, first)
        if first in selection.excluded and member is not None and member.snapshot(now).availability.usable:
            self._sessions.assign(key, first, now)

    def _note_model(self, selection: Selection, assignment: Assignment) -> None:
        if assignment.asked_for(selection.model):
            self._log_assignment(selection, assignment.credential, "the session is there")

    def _log_assignment(self, selection: Selection, tag: str, reason: str) -> None:
        self.log.info(
            "session {session} of {user} ({model}) is served by {credential} of pool {pool}: {reason}",
            session=selection.session,
            user=selection.user or "-",
            model=selection.model or "-",
            credential=tag,
            pool=self.tag,
            reason=reason,
        )

    # Choosing -------------------------------------------------------------------------------------------------

    def _allowed(self, selection: Selection, tag: str) -> ICredential | None:
        member = self._by_tag.get(tag)
        if member is None or (member.is_external and not selection.allow_external):
            return None
        return member if self._takes_keys or not member.is_api_key else None

    def _candidates(self, selection: Selection, model: str | None, now: float) -> list[Candidate]:
        """Those that can serve; if none can, those that are only not to be preferred."""
        views = [
            member.snapshot(now, model)
            for member in self.credentials(selection.allow_external)
            if member.tag not in selection.excluded
        ]
        fit = [view for view in views if view.availability.usable] or [
            view for view in views if view.availability.worth_trying
        ]
        return [Candidate(view, self._recent.count(view.tag, now)) for view in fit]

    def _choose(self, candidates: Sequence[Candidate], now: float) -> Choice:
        match self._rules.strategy:
            case "least-used":
                return least_used(self._lasting(candidates, now), now)
            case "round-robin":
                order = [member.tag for member in self._members]
                choice = round_robin(candidates, order, self._last)
                self._last = choice.tag
                return choice
            case "random":
                return uniform(candidates, self._random)
            case "fallback":
                return fallback(candidates)

    def _lasting(self, candidates: Sequence[Candidate], now: float) -> Sequence[Candidate]:
        """Those that rebalancing would not take a session away from at its next request."""
        threshold = self._rules.rebalance_threshold
        if threshold <= 0:
            return candidates
        best = _best(candidates, now).candidate.snapshot
        return [each for each in candidates if not should_rebalance(each.snapshot, best, threshold, now)]

    def _availability(self, selection: Selection, model: str | None, now: float) -> Availability:
        members = self.credentials(selection.allow_external)
        return overall_availability([member.snapshot(now, model) for member in members], now)

    def _lease(self, tag: str, selection: Selection) -> ILease:
        member = self._allowed(selection, tag)
        assert member is not None
        return member.lease(PoolScope(self.tag, selection.allow_external))


def _best(candidates: Sequence[Candidate], now: float) -> Choice:
    """What least-used would choose if nothing had just been assigned.

    Rebalancing compares with that: shares of sessions that come together change with every one of them, and sessions
    would be moved to and fro while nothing has changed.
    """
    return least_used([Candidate(each.snapshot) for each in candidates], now)
