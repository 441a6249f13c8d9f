"""A pool of credentials: sessions are distributed over its members, and are sticky (spec 6.2 to 6.6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from twisted.logger import Logger
from zope.interface import implementer

from ccmproxy.credentials.pool.members import Members, best, gives_opinion, lasting, with_model
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
from ccmproxy.state.availability import Availability, CredentialSnapshot


@dataclass(frozen=True, slots=True)
class PoolRules:
    """How a pool chooses a member. ``rebalance_threshold``: percent, 0 = off (spec 6.5). ``spread_subagents``: each
    subagent of a session counts as a session of its own (F11). ``patience``: longest wait for which a warm session
    stays where it was refused (seconds, spec 12.2)."""

    strategy: StrategyName = "least-used"
    rebalance_threshold: float = 0.0
    spread_subagents: bool = False
    patience: float = 5.0


class PoolScope(NamedTuple):
    """The holder of the leases of one pool and selection scope. Rebalancing interrupts the leases of one scope only."""

    pool: str
    allow_external: bool


@implementer(IProvider)
class Pool:
    """Chooses among ``members``, in the order of the configuration.

    A session keeps its credential until the credential cannot serve it, is no longer allowed to, or loses it to
    rebalancing. Every method is synchronous, so two requests of one session never see the session partly moved.
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
        """``now`` returns Unix seconds, ``random`` numbers in [0, 1). ``takes_keys`` is False where keys of the
        commercial API cannot replace accounts (spec 3.7): members that hold such a key are skipped."""
        self.tag = tag
        self._rules = rules
        self._now = now
        self._random = random
        self._sessions = SessionTable()
        self._recent = RecentAssignments()
        self._takes_keys = takes_keys
        self._members = Members(members, self._recent, takes_keys)
        #: The tag that round-robin chose last.
        self._last: str | None = None
        self._listeners: dict[object, Callable[[], None]] = {}
        self._unsubscribe: list[Callable[[], None]] = []

    def __repr__(self) -> str:
        return f"<Pool {self.tag} {self._rules.strategy} members={len(self._members.all)}>"

    # Life -----------------------------------------------------------------------------------------------------

    def reconfigure(self, members: Sequence[ICredential], rules: PoolRules) -> None:
        """Apply a reloaded configuration. Sessions on members that remain in the pool stay there."""
        kept = {id(member) for member in members}
        self._sessions.forget_all(member.tag for member in self._members.all if id(member) not in kept)
        self._rules = rules
        self._members = Members(members, self._recent, self._takes_keys)
        self._listen()
        self._changed()

    def clock_set(self, by: float) -> None:
        """Note that Unix time was set by ``by`` seconds: sessions live on as if nothing had happened (spec 11)."""
        self._sessions.clock_set(by)
        self._recent.clock_set(by)

    def _listen(self) -> None:
        """Subscribe to every member once if the pool has listeners, else to none."""
        for end in self._unsubscribe:
            end()
        members = self._members.all if self._listeners else ()
        self._unsubscribe = [member.subscribe(self._changed) for member in members]

    def _changed(self) -> None:
        for listener in list(self._listeners.values()):
            try:
                listener()
            except Exception:
                self.log.failure("pool {pool}: telling a change failed", pool=self.tag)

    # IProvider ------------------------------------------------------------------------------------------------

    def credentials(self, allow_external: bool) -> Sequence[ICredential]:
        """Return the members that may serve a user with that permission, usable or not, in order (spec 6.6)."""
        return self._members.credentials(allow_external)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call ``listener`` at every change of a member that is visible in the status. Returns a function that
        unsubscribes."""
        key = object()
        self._listeners[key] = listener
        if len(self._listeners) == 1:
            self._listen()

        def unsubscribe() -> None:
            if self._listeners.pop(key, None) is not None and not self._listeners:
                self._listen()

        return unsubscribe

    def sessions(self, user: str) -> Sequence[tuple[SessionKey, Assignment]]:
        """Return the sessions of one user and the credential that each is assigned to."""
        return self._sessions.of_user(user, self._now())

    def select(self, selection: Selection) -> ILease:
        """Return a lease on the credential of the session, or on the one that the strategy chooses. Raises NoCredential
        when no member can serve the request."""
        now = self._now()
        key = self._key(selection)
        assignment = self._find(selection, now)
        # The handshake of a WebSocket names no model, so the last model of the session is assumed.
        model = selection.model or (assignment.model if assignment is not None else None)
        selection = with_model(selection, model)
        why = ""
        while assignment is not None:
            why = self._why_leave(selection, assignment, model, now)
            if not why:
                self._note_model(selection, assignment)
                return self._lease(assignment.credential, selection)
            before = assignment
            assignment = self._find(selection, now)
            if assignment is before:
                break
            # Rebalancing interrupted another request of this session, and that request has reassigned the session.
        candidates = self._members.new_candidates(selection, model, now, assignment)
        if not candidates:
            if key is not None and assignment is not None:
                self._return(key, selection, assignment, now)
            raise NoCredential(
                self._members.availability(selection, model, now),
                self._members.free_at(selection, model, now),
            )
        choice = self._choose(candidates, now)
        self._recent.add(choice.tag, now)
        if key is not None:
            self._assign(key, selection, choice, assignment, why, now)
        return self._lease(choice.tag, selection)

    def keeps(self, selection: Selection, tag: str) -> bool:
        """Return whether a new turn may use the connection that this session has to the credential ``tag`` (F39)."""
        now = self._now()
        member = self._members.allowed(selection, tag)
        if member is None or not member.snapshot(now).availability.worth_trying:
            return False
        assignment = self._find(selection, now)
        if assignment is not None and assignment.credential == tag:
            self._note_model(selection, assignment)
        # Without a session the next handshake knows no model either, and would choose the same credential again.
        model = selection.model if selection.session is not None else None
        # A rest is not looked at per turn (spec 12.2).
        selection = replace(selection, asked=self._members.denial(tag, model, now))
        why = self._why_leave_credential(selection, tag, model, now, assignment)
        # If no other member can serve the turn either, the connection is kept.
        elsewhere = Selection(allow_external=selection.allow_external, excluded=selection.excluded | {tag})
        return not why or not self._members.candidates(elsewhere, model, now)

    @property
    def patience(self) -> float:
        """Longest wait for which a warm session stays where it was refused (seconds, spec 12.2)."""
        return self._rules.patience

    def is_warm(self, selection: Selection, tag: str) -> bool:
        """Return whether the credential ``tag`` has served this session within the last minutes."""
        now = self._now()
        assignment = self._find(selection, now)
        return assignment is not None and assignment.is_warm(tag, now)

    def refused(self, selection: Selection, tag: str) -> None:
        """Note that a stream of this session was refused in mid-stream, without data, on the credential ``tag``."""
        now = self._now()
        assignment = self._find(selection, now)
        if assignment is not None and assignment.credential == tag:
            assignment.leaves(tag, now)

    def served(self, selection: Selection, tag: str) -> None:
        """Note that the credential ``tag`` has served a request of this session: its prompt cache is warm there."""
        now = self._now()
        assignment = self._find(selection, now)
        if assignment is None or assignment.credential != tag:
            return
        assignment.served_at = now
        if assignment.came_from and assignment.came_from != assignment.rested:
            # The request itself may have been refused there before, and have moved the session.
            self._note_origin(assignment, assignment.came_from, selection, now)

    # Sessions -------------------------------------------------------------------------------------------------

    def _key(self, selection: Selection) -> SessionKey | None:
        """Return the key of the session; None: the request has no session id, and is not remembered."""
        if selection.session is None:
            return None
        agent = selection.agent or "" if self._rules.spread_subagents else ""
        return SessionKey(selection.user, selection.session, selection.allow_external, agent)

    def _find(self, selection: Selection, now: float) -> Assignment | None:
        """Return the assignment of the session; None if it has none. Counts as a use."""
        key = self._key(selection)
        return self._sessions.find(key, now) if key is not None else None

    def _why_leave(self, selection: Selection, assignment: Assignment, model: str | None, now: float) -> str:
        """Return why the session leaves its credential, as text for the log. Empty if it stays."""
        if not assignment.credential:
            return f"all sessions leave {assignment.came_from}"
        return self._why_leave_credential(selection, assignment.credential, model, now, assignment)

    def _why_leave_credential(
        self,
        selection: Selection,
        tag: str,
        model: str | None,
        now: float,
        assignment: Assignment | None = None,
    ) -> str:
        """Return why a session on ``tag`` leaves it, as text for the log. Empty if it stays.

        Failed polls of the usage endpoint do not move sessions: they say nothing about the account (compare F6), and a
        conversation that moves loses its prompt cache.
        """
        if tag in selection.excluded:
            return f"{tag} did not serve it"
        member = self._members.allowed(selection, tag)
        if member is None or not gives_opinion(selection, member):
            return f"{tag} may not serve it"
        view = member.snapshot(now, model)
        availability = view.availability
        is_warm = assignment is not None and assignment.is_warm(tag, now)
        if assignment is not None and self._members.has_left(selection, assignment, tag, model, now):
            return f"{tag} has refused it in mid-stream"
        if selection.asked is not None and member.turns_away(selection.asked, is_warm, now):
            # What others serve and this one refuses is sent there nevertheless if nobody else can serve it.
            others = self._members.candidates(selection, model, now, assignment, may_return=True)
            if others or member.free_at(selection.asked, now):
                return f"{tag} does not take it at present"
        if not availability.usable and availability.reason != "poll_failed":
            candidates = self._members.candidates(selection, model, now)
            usable = {each.tag: each.snapshot.availability.usable for each in candidates}
            # If all remaining candidates are merely worth trying, moving from one to another does not help.
            if not availability.worth_trying or any(usable.values()) or (usable and tag not in usable):
                return f"{tag}: {availability.message}"
        if self._rules.strategy == "fallback":
            candidates = self._members.candidates(selection, model, now, assignment)
            order = [each.tag for each in self._members.all]
            if candidates and order.index(fallback(candidates).tag) < order.index(tag):
                return "one before it in the list can serve"
        elif self._rules.strategy == "least-used" and self._rules.rebalance_threshold > 0:
            candidates = self._members.candidates(selection, model, now, assignment)
            if candidates and self._rebalance(view, best(candidates, now), selection, now):
                return f"{tag} is much more used than others"
        return ""

    def _rebalance(self, held: CredentialSnapshot, better: Choice, selection: Selection, now: float) -> bool:
        """Move all sessions of this scope away from ``held`` if ``better`` is used much less (spec 6.5). Returns
        whether they moved."""
        if not should_rebalance(held, better.candidate.snapshot, self._rules.rebalance_threshold, now):
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
        self._members.by_tag[held.tag].interrupt(PoolScope(self.tag, allow_external), cause)
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
        if before is not None:
            self._note_rest(assignment, before, selection, now)
        origin = (before.credential or before.came_from) if before is not None else ""
        if before is not None and origin in selection.excluded:
            is_first = before.came_from not in selection.excluded
            assignment.came_from = origin if is_first else before.came_from
            assignment.origin_served_at = before.served_at if is_first else before.origin_served_at
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

    def _note_rest(
        self, assignment: Assignment, before: Assignment, selection: Selection, now: float
    ) -> None:
        """Remember from where a rest moves a session away, as it does not return there soon (spec 12.2)."""
        if before.rested != assignment.credential:
            assignment.rested, assignment.rested_at = before.rested, before.rested_at
        if before.credential and before.credential != assignment.credential:
            self._note_origin(assignment, before.credential, selection, now)

    def _note_origin(self, assignment: Assignment, origin: str, selection: Selection, now: float) -> None:
        member = self._members.by_tag.get(origin)
        if member is not None and selection.asked is not None and member.free_at(selection.asked, now):
            assignment.rested, assignment.rested_at = origin, now

    def _return(self, key: SessionKey, selection: Selection, assignment: Assignment, now: float) -> None:
        """Return the session to its original credential after no member could serve the request, if that credential is
        still usable. It is when the network was down, for example, and then it still has the prompt cache."""
        # Another request of the session may have moved it to where it is served.
        first = assignment.came_from if assignment.credential in {"", *selection.excluded} else ""
        member = self._members.allowed(selection, first) if first in selection.excluded else None
        if member is not None and member.snapshot(now).availability.worth_trying:
            returned = self._sessions.assign(key, first, now)
            returned.served_at = assignment.origin_served_at

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

    def _choose(self, candidates: Sequence[Candidate], now: float) -> Choice:
        match self._rules.strategy:
            case "least-used":
                return least_used(lasting(candidates, self._rules.rebalance_threshold, now), now)
            case "round-robin":
                order = [member.tag for member in self._members.all]
                choice = round_robin(candidates, order, self._last)
                self._last = choice.tag
                return choice
            case "random":
                return uniform(candidates, self._random)
            case "fallback":
                return fallback(candidates)

    def _lease(self, tag: str, selection: Selection) -> ILease:
        member = self._members.allowed(selection, tag)
        assert member is not None
        return member.lease(PoolScope(self.tag, selection.allow_external))
