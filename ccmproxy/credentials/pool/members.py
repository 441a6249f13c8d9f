"""The members of a pool, and which of them can serve a request (spec 6.2, 6.6, 12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ccmproxy.interfaces.credentials import ICredential
from ccmproxy.policy.balancing import Candidate, Choice, Selection, least_used, should_rebalance
from ccmproxy.policy.sessions import Assignment, RecentAssignments
from ccmproxy.state.aggregate import overall_availability
from ccmproxy.state.availability import Availability, CredentialSnapshot
from ccmproxy.state.holds import Combination


class Members:
    """The members of a pool. ``all``: in the order of the configuration. ``by_tag``: tag → member."""

    __slots__ = ("_recent", "_takes_keys", "all", "by_tag")

    def __init__(self, members: Sequence[ICredential], recent: RecentAssignments, takes_keys: bool) -> None:
        """``recent``: sessions that were assigned to them recently. ``takes_keys``: False where keys of the commercial
        API cannot replace accounts (spec 3.7)."""
        self.all = tuple(members)
        self.by_tag = {member.tag: member for member in members}
        self._recent = recent
        self._takes_keys = takes_keys

    def credentials(self, allow_external: bool) -> Sequence[ICredential]:
        """Return the members that may serve a user with that permission, usable or not, in order (spec 6.6)."""
        return [
            member
            for member in self.all
            if (allow_external or not member.is_external) and (self._takes_keys or not member.is_api_key)
        ]

    def allowed(self, selection: Selection, tag: str) -> ICredential | None:
        """Return the member ``tag`` if this user may use it, else None."""
        member = self.by_tag.get(tag)
        if member is None or (member.is_external and not selection.allow_external):
            return None
        return member if self._takes_keys or not member.is_api_key else None

    def candidates(
        self,
        selection: Selection,
        model: str | None,
        now: float,
        assignment: Assignment | None = None,
        *,
        may_return: bool = False,
    ) -> list[Candidate]:
        """Return the members that are usable or, if there are none, those that are worth trying.

        Members that do not take such a request at present are left out (spec 12.2), and for a session with an
        ``assignment`` those that it avoids, unless it ``may_return`` there.
        """
        members = [
            member
            for member in self._asked_for(selection)
            if (may_return or assignment is None or not assignment.avoids(member.tag, now))
            and self._takes(member, selection, now, assignment)
        ]
        views = [view for member in members if may_find_out(view := member.snapshot(now, model), selection)]
        fit = (
            [view for view in views if view.availability.usable or view.availability.lets_one_through]
            or [view for view in views if view.availability.worth_trying and not is_for_last(view)]
            or [view for view in views if view.availability.worth_trying]
        )
        return [Candidate(view, self._recent.count(view.tag, now)) for view in fit]

    def _asked_for(self, selection: Selection) -> list[ICredential]:
        """Return the members that the selection does not rule out, whatever their state, in order."""
        return [
            member
            for member in self.credentials(selection.allow_external)
            if member.tag not in selection.excluded and gives_opinion(selection, member)
        ]

    def new_candidates(
        self, selection: Selection, model: str | None, now: float, assignment: Assignment | None
    ) -> list[Candidate]:
        """Return the candidates for a session that has none, or leaves its credential.

        A session that leaves because of a refusal in mid-stream goes to another account, never to a key or a remote
        instance for this alone (spec 12.1). If all members have refused such a request that others served, one of them
        is asked nevertheless: it says more than this proxy could.
        """
        if assignment is not None and self.has_left(selection, assignment, assignment.credential, model, now):
            selection = replace(selection, only_accounts=True)
        candidates = self.candidates(selection, model, now, assignment)
        if not candidates and assignment is not None and assignment.rested:
            # It avoids where a rest moved it away from only as long as there is anything else.
            candidates = self.candidates(selection, model, now, assignment, may_return=True)
        if candidates or selection.asked is None or self.rests_until(selection, model, now):
            return candidates
        return self.candidates(replace(selection, asked=None), model, now)

    def has_left(
        self, selection: Selection, assignment: Assignment, tag: str, model: str | None, now: float
    ) -> bool:
        """Return whether the session goes to another account because ``tag`` refused it in mid-stream."""
        if assignment.credential != tag or not assignment.avoids(tag, now):
            return False
        return bool(self.candidates(replace(selection, only_accounts=True), model, now, assignment))

    def _takes(
        self, member: ICredential, selection: Selection, now: float, assignment: Assignment | None
    ) -> bool:
        if selection.asked is None:
            return True
        is_warm = assignment is not None and assignment.is_warm(member.tag, now)
        return not member.turns_away(selection.asked, is_warm, now)

    def rests_until(self, selection: Selection, model: str | None, now: float) -> float:
        """Return when the first member that has room and only rests ends its rest (Unix seconds); 0: there is none."""
        if selection.asked is None:
            return 0.0
        moments = [
            member.free_at(selection.asked, now)
            for member in self._asked_for(selection)
            if member.snapshot(now, model).availability.usable
        ]
        return min((moment for moment in moments if moment > now), default=0.0)

    def free_at(self, selection: Selection, model: str | None, now: float) -> float:
        """Return the earliest known time at which a member that this user may use can serve the request: the end of a
        rest, the reset of a window (Unix seconds, spec 12.2); 0: none is known.

        A window that the request itself found used up has a reset, too. When a refused or failed member is asked again
        is no such time.
        """
        moments = []
        for member in self.credentials(selection.allow_external):
            if not gives_opinion(selection, member):
                continue
            availability = member.snapshot(now, model).availability
            rest = member.free_at(selection.asked, now) if selection.asked is not None else 0.0
            if availability.state == "rate_limited":
                moments.append(max(availability.reset_at, rest) if availability.reset_at else 0.0)
            elif availability.usable and member.tag not in selection.excluded:
                moments.append(rest)
        return min((moment for moment in moments if moment > now), default=0.0)

    def denial(self, tag: str, model: str | None, now: float) -> Combination | None:
        """Return ``model`` alone as what is asked for if the account of the member ``tag`` may not use it (spec 12.3);
        None if it may, or the model is not known."""
        asked = Combination("", model) if model is not None else None
        return asked if asked is not None and self.by_tag[tag].turns_away(asked, True, now) else None

    def availability(self, selection: Selection, model: str | None, now: float) -> Availability:
        """Return the availability of all members that this user may use together (spec 8.1)."""
        members = self.credentials(selection.allow_external)
        return overall_availability([member.snapshot(now, model) for member in members], now)


def gives_opinion(selection: Selection, member: ICredential) -> bool:
    """Return whether the member's answer is of use to the selection: where another account's answer is wanted, that of
    a key or a remote instance is not (spec 12.1)."""
    return not selection.only_accounts or member.is_account


def may_find_out(view: CredentialSnapshot, selection: Selection) -> bool:
    """Return whether the credential is not refused by its provider, or the request is one for a model: no other can
    show that it is not any more (spec 12.3)."""
    asked = selection.asked
    return view.availability.reason != "refused" or asked is None or asked.is_model_request


def is_for_last(view: CredentialSnapshot) -> bool:
    """Return whether the provider refuses the account: it is asked only where nobody else can serve (spec 12.3)."""
    return view.availability.is_last_resort and not view.availability.lets_one_through


def best(candidates: Sequence[Candidate], now: float) -> Choice:
    """Return the choice of least-used without regard to recent assignments.

    Rebalancing compares with this choice. Recent assignments change with every session of a burst, so taking them into
    account would move sessions back and forth although the usage has not changed.
    """
    return least_used([Candidate(each.snapshot) for each in candidates], now)


def lasting(candidates: Sequence[Candidate], threshold: float, now: float) -> Sequence[Candidate]:
    """Return the candidates from which rebalancing would not move a new session at its next request. ``threshold``:
    percent, 0 = off."""
    if threshold <= 0:
        return candidates
    most = best(candidates, now).candidate.snapshot
    return [each for each in candidates if not should_rebalance(each.snapshot, most, threshold, now)]


def with_model(selection: Selection, model: str | None) -> Selection:
    """Return ``selection`` for ``model``, as far as it asks for none itself."""
    if model is None or selection.asked is None or selection.asked.model:
        return selection
    return replace(selection, asked=selection.asked._replace(model=model))
