"""Random operations on a pool: invariants that hold whatever requests arrive in whatever order."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.pool.pool import Pool, PoolRules
from ccmproxy.interfaces.credentials import ILease
from ccmproxy.policy.balancing import NoCredential, Selection, should_rebalance
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.availability import Availability, CredentialSnapshot
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import AccountRefused, Denied, Rests
from tests.credentials.fixtures import NOW, PlainCredential
from tests.profiles import examples

TAGS = "abcde"
MODELS = ("claude-opus-4-5", "claude-haiku-4-5", None)
ASKED = Combination("/v1/messages", "claude-opus-4-5")
places = st.integers(0, 4)
durations = st.sampled_from([1.0, 30.0, 61.0, 600.0, 6 * 3600.0, 4 * 86400.0])
percents = st.integers(0, 100).map(float)
rules_of_a_pool = st.builds(
    PoolRules,
    st.sampled_from(["least-used", "least-used", "round-robin", "random", "fallback"]),
    st.sampled_from([0.0, 5.0, 20.0]),
    st.booleans(),
)


class PoolMachine(RuleBasedStateMachine):
    """A pool of two to five members. The fifth is a remote."""

    @initialize(size=st.integers(2, 5), rules=rules_of_a_pool)
    def begin(self, size: int, rules: PoolRules) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.open: list[ILease] = []
        self.interrupted: list[ILease] = []
        self.all: list[PlainCredential] = []
        self.members = [self.make(place) for place in range(size)]
        self.pool_rules = rules
        self.last = Selection()
        self.numbers = iter(range(10**9))
        self.pool = Pool(
            "pool", self.members, rules, self.clock.seconds, lambda: next(self.numbers) * 0.618 % 1
        )

    def make(self, place: int) -> PlainCredential:
        """Return the member at an index of the list."""
        weight = (1.0, 10.0, 5.0, 1.0, 10.0)[place]
        credential = PlainCredential(TAGS[place], self.clock, weight=weight, external=place == 4)
        self.all.append(credential)
        return credential

    def member(self, place: int) -> PlainCredential:
        return self.members[place % len(self.members)]

    # Events of members ------------------------------------------------------------------------------------

    @rule(seconds=durations)
    def time_passes(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @rule(place=places, percent=percents, hours=st.sampled_from([0.5, 5.0, 50.0, 168.0]))
    def use(self, place: int, percent: float, hours: float) -> None:
        self.member(place).use(percent, hours)

    @rule(place=places, seconds=durations)
    def rate_limit(self, place: int, seconds: float) -> None:
        self.member(place).rate_limited(self.clock.seconds() + seconds, explicit=True)

    @rule(place=places, seconds=durations)
    def rest(self, place: int, seconds: float) -> None:
        """Spec 12.2: a rest turns away cold requests for this combination only."""
        self.member(place).learn(Rests(ASKED, "u", seconds))

    @rule(place=places)
    def refuse_account(self, place: int) -> None:
        self.member(place).learn(AccountRefused("disabled"))

    @rule(place=places)
    def deny(self, place: int) -> None:
        self.member(place).learn(Denied(ASKED, "u"))

    @rule(place=places)
    def serve(self, place: int) -> None:
        self.member(place).served(ASKED, self.clock.seconds(), True)

    @rule(place=places, seconds=durations)
    def close_model(self, place: int, seconds: float) -> None:
        self.member(place).close_model("opus", seconds)

    @rule(place=places)
    def fail_poll(self, place: int) -> None:
        self.member(place).fail_poll()

    @rule(place=places)
    def lose_token(self, place: int) -> None:
        self.member(place).lose_token()

    @rule(place=places)
    def gain_token(self, place: int) -> None:
        self.member(place).gain_token()

    @rule(rules=rules_of_a_pool, dropped=places, replaced=places)
    def reload(self, rules: PoolRules, dropped: int, replaced: int) -> None:
        """Change the configuration: a member is removed, or another account gets its tag."""
        before = {(key, each.credential) for user in "uv" for key, each in self.pool.sessions(user)}
        known = {credential.tag: credential for credential in self.members}
        tags = [tag for tag in TAGS if tag in known] if dropped % 2 else list(TAGS[:4])
        kept = []
        for tag in tags:
            place = TAGS.index(tag)
            if len(tags) > 2 and place == dropped:
                continue
            kept.append(self.make(place) if place == replaced or tag not in known else known[tag])
        self.members, self.pool_rules = kept, rules
        self.pool.reconfigure(kept, rules)
        staying = {credential.tag for credential in kept if known.get(credential.tag) is credential}
        after = {(key, each.credential) for user in "uv" for key, each in self.pool.sessions(user)}
        assert after == {(key, tag) for key, tag in before if tag in staying}

    # Requests of clients ----------------------------------------------------------------------------------

    @rule(
        session=st.sampled_from(["s", "t", None]),
        user=st.sampled_from("uv"),
        model=st.sampled_from(MODELS),
        external=st.booleans(),
        excluded=st.just(frozenset()) | st.frozensets(st.sampled_from(TAGS), max_size=5),
        agent=st.sampled_from([None, None, "agent"]),
    )
    def ask(
        self,
        session: str | None,
        user: str,
        model: str | None,
        external: bool,
        excluded: frozenset[str],
        agent: str | None,
    ) -> None:
        self.last = Selection(session, model, external, excluded, user, agent)
        self.ask_for(self.last)

    @precondition(lambda self: self.last.session is not None)
    @rule(model=st.sampled_from(MODELS), spoilt=st.none() | durations)
    def ask_again(self, model: str | None, spoilt: float | None) -> None:
        """Continue a session, perhaps after its credential was used up."""
        found = self.assignment(self.last)
        for member in self.members:
            if spoilt is not None and found is not None and member.tag == found.credential:
                member.rate_limited(self.clock.seconds() + spoilt, explicit=True)
        self.ask_for(replace(self.last, model=model, excluded=frozenset()))

    @rule(
        session=st.sampled_from(["r", "r2", None]),
        excluded=st.frozensets(st.sampled_from(TAGS), max_size=2),
        only_accounts=st.booleans(),
        serves=st.booleans(),
    )
    def ask_for_what_rests(
        self, session: str | None, excluded: frozenset[str], only_accounts: bool, serves: bool
    ) -> None:
        """Spec 12.2: cold work goes where it does not rest, or is told when the first rest ends; a denial of nobody
        keeps out what no other credential can serve."""
        now = self.clock.seconds()
        selection = Selection(session, ASKED.model, True, excluded, "u", None, ASKED, only_accounts)
        is_warm = {member.tag: self.pool.is_warm(selection, member.tag) for member in self.members}
        fit = [
            member
            for member in self.members
            if member.tag not in excluded
            and not (only_accounts and member.is_external)
            and member.snapshot(now, ASKED.model).availability.worth_trying
        ]
        takes = [each.tag for each in fit if not each.turns_away(ASKED, is_warm[each.tag], now)]
        try:
            lease = self.pool.select(selection)
        except NoCredential as refusal:
            assert not takes, takes
            assert refusal.free_at > now or all(each.free_at(ASKED, now) for each in fit), fit
            return
        self.take(lease)
        assert lease.tag in takes or (not takes and lease.tag in {each.tag for each in fit})
        if serves and session is not None:
            self.pool.served(selection, lease.tag)
            assert self.pool.is_warm(selection, lease.tag)

    def ask_for(self, selection: Selection) -> None:
        """Make one request, and check that its credential was allowed to serve it."""
        now = self.clock.seconds()
        model, external, excluded = selection.model, selection.allow_external, selection.excluded
        assignment = self.assignment(selection)
        before = assignment.credential if assignment is not None else None
        judged = model or (assignment.model if assignment is not None else None)
        views = {
            member.tag: member.snapshot(now, judged)
            for member in self.members
            if (external or not member.is_external) and member.tag not in excluded
        }
        # A refused account whose poll was good may be tried by one request, as if it were usable (spec 12.3).
        usable = [
            tag
            for tag, view in views.items()
            if view.availability.usable or view.availability.lets_one_through
        ]
        worth = [tag for tag, view in views.items() if view.availability.worth_trying]
        # And one whose interval is over only where nobody else can serve.
        worth = [tag for tag in worth if views[tag].availability.reason != "refused"] or worth
        try:
            lease = self.pool.select(selection)
        except NoCredential as refusal:
            assert not worth, worth
            assert refusal.availability.state
            return
        self.take(lease)
        tag = lease.tag
        # An account whose polls fail keeps the sessions that it has.
        polls_fail = tag in views and views[tag].availability.reason == "poll_failed"
        assert tag in usable or (tag in worth and (not usable or (polls_fail and tag == before)))
        if self.pool_rules.strategy == "fallback":
            assert tag == (usable or worth)[0] or (polls_fail and tag == before)
        elif before in usable and views[before].availability.usable and tag != before:
            self.check_rebalanced(views[before], [views[tag] for tag in usable], now)
        after = self.assignment(selection)
        assert (after.credential if after is not None else None) == (
            None if selection.session is None else tag
        )

    def check_rebalanced(self, held: CredentialSnapshot, views: list[CredentialSnapshot], now: float) -> None:
        """Check that a session which left a credential that could serve it was allowed to do so by the strategy."""
        threshold = self.pool_rules.rebalance_threshold
        assert self.pool_rules.strategy == "least-used", self.pool_rules
        assert any(should_rebalance(held, view, threshold, now) for view in views)

    def assignment(self, selection: Selection) -> Any:
        agent = selection.agent or "" if self.pool_rules.spread_subagents else ""
        for key, assignment in self.pool.sessions(selection.user):
            if key == (selection.user, selection.session, selection.allow_external, agent):
                return assignment
        return None

    def take(self, lease: ILease) -> None:
        """Check that the lease is open, and is interrupted at most once until a callback is set again."""
        self.open.append(lease)

        def interrupted(availability: Availability) -> None:
            assert lease in self.open and lease not in self.interrupted
            self.interrupted.append(lease)

        lease.on_interrupt(interrupted)

    @rule(session=st.sampled_from("st"), place=places, model=st.sampled_from(MODELS), external=st.booleans())
    def begin_turn(self, session: str, place: int, model: str | None, external: bool) -> None:
        """Begin a turn on an existing connection."""
        tag = TAGS[place]
        kept = self.pool.keeps(Selection(session, model, external, user="u"), tag)
        allowed = {each.tag: each for each in self.members if external or not each.is_external}
        if kept:
            assert allowed[tag].snapshot(self.clock.seconds()).availability.worth_trying

    @precondition(lambda self: self.open)
    @rule(place=st.integers(0, 100), outcome=st.sampled_from(LeaseOutcome))
    def close(self, place: int, outcome: LeaseOutcome) -> None:
        lease = self.open.pop(place % len(self.open))
        lease.close(outcome)
        if lease in self.interrupted:
            self.interrupted.remove(lease)

    # Invariants -------------------------------------------------------------------------------------------

    @invariant()
    def every_lease_is_known(self) -> None:
        held = sum(credential.in_flight for credential in self.all)
        assert held == len(self.open)

    @invariant()
    def sessions_are_on_members(self) -> None:
        tags = {member.tag for member in self.members}
        for user in "uv":
            for key, assignment in self.pool.sessions(user):
                assert assignment.credential in tags
                assert key.allow_external or assignment.credential != TAGS[4]

    def teardown(self) -> None:
        for lease in getattr(self, "open", ()):
            lease.close(LeaseOutcome.CANCELLED)
        for credential in getattr(self, "all", ()):
            assert credential.leases == set()
            credential.stop()


class PoolMachineTests(SynchronousTestCase):
    """Random conversations with a pool."""

    def test_anything_may_happen(self) -> None:
        run_state_machine_as_test(
            PoolMachine,
            settings=examples(120, stateful_step_count=40),
        )
