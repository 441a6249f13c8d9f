"""What is lost, doubled or hung is found; what a rule or a fault explains is not."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from bench.soak.judging import (
    BUSY,
    DISK_FULL,
    KILLED,
    MOST_SENDS,
    REFRESH_REFUSED,
    SHAPES,
    Judgement,
    Scene,
    judge,
)
from bench.soak.outcomes import End, Event, Outcome, Try
from bench.soak.requests import FAULTS
from tests.bench.soak.scene import broken, outcome, refused, sent

LENT = frozenset({"lent"})
BORROWERS = frozenset({"borrower"})


def scene(*events: Event) -> Scene:
    """A run with these events."""
    return Scene(events, LENT, BORROWERS, frozenset({"bob"}))


class JudgeCase(SynchronousTestCase):
    """Judges one request."""

    def judged(self, outcome: Outcome, *tries: Try, events: Sequence[Event] = ()) -> Judgement:
        """Judge it."""
        return judge(outcome, tries, scene(*events))

    def problem(self, outcome: Outcome, *tries: Try, events: Sequence[Event] = ()) -> str:
        """The problem, or nothing."""
        return self.judged(outcome, *tries, events=events).problem


class HungTests(JudgeCase):
    def test_a_client_that_waits_in_vain(self) -> None:
        waiting = outcome(end=End.HUNG, ended=190.0, status=0, is_right=False)
        self.assertEqual(self.judged(waiting, sent()), Judgement("hung", "nothing for 90 s"))

    def test_not_a_client_that_leaves(self) -> None:
        self.assertEqual(
            self.problem(outcome(end=End.LEFT, status=0, is_right=False), sent(state="gone")), ""
        )


class LostTests(JudgeCase):
    def test_served_is_not_lost(self) -> None:
        self.assertEqual(self.judged(outcome(), sent()), Judgement("", "served"))

    def test_an_answer_that_the_simulator_gave_and_the_client_did_not_get(self) -> None:
        judgement = self.judged(broken(), sent())
        self.assertEqual(judgement.problem, "lost")
        self.assertEqual(judgement.why, "broken off, but 200 by own-1 (no fault, finished)")

    def test_an_answer_of_which_the_simulator_knows_nothing(self) -> None:
        self.assertEqual(self.problem(outcome()), "lost")

    def test_a_request_that_never_reached_the_simulator(self) -> None:
        self.assertEqual(self.problem(outcome(end=End.BROKEN, status=0, is_right=False)), "lost")
        self.assertEqual(self.problem(refused(502, "upstream_lost")), "lost")

    def test_other_content(self) -> None:
        """A byte that is missing, a text of somebody else: the framing alone proves nothing."""
        self.assertEqual(self.problem(outcome(is_right=False), sent()), "lost")

    def test_a_stream_that_ends_properly_without_its_end(self) -> None:
        cut_short = outcome(is_right=False, streamed=True)
        self.assertEqual(self.problem(cut_short, sent(fault="truncated")), "lost")

    def test_a_refusal_that_nobody_made(self) -> None:
        self.assertEqual(self.problem(refused(529), sent()), "lost")
        self.assertEqual(self.problem(refused(500), sent(status=529, fault="overloaded")), "lost")

    def test_a_fault_explains_what_it_does(self) -> None:
        self.assertEqual(self.problem(refused(529), sent(status=529, fault="overloaded")), "")
        self.assertEqual(self.problem(broken(), sent(fault="cut", state="broken")), "")
        self.assertEqual(self.problem(refused(504, "upstream_timeout"), sent(fault="hang", state="gone")), "")

    def test_a_fault_does_not_explain_anything_else(self) -> None:
        self.assertEqual(self.problem(broken(), sent(status=529, fault="overloaded")), "lost")
        self.assertEqual(self.problem(broken(), sent(fault="pings")), "lost")

    def test_the_lenders_refusal_without_its_word(self) -> None:
        self.assertEqual(self.problem(refused(502), sent(account="lent", fault="cut", state="broken")), "")
        self.assertEqual(self.problem(refused(502), sent(fault="cut", state="broken")), "lost")
        self.assertEqual(
            self.problem(refused(504), sent(account="lent", fault="cut", state="broken")), "lost"
        )

    def test_every_fault_of_the_run_has_an_explanation(self) -> None:
        harmful = {fault.name for _, fault in FAULTS.faults} - {
            "slow",
            "slow_first_token",
            "random_pieces",
            "pings",
            "gzip",
        }
        self.assertEqual(harmful, set(SHAPES))

    def test_a_websocket_shows_faults_in_its_own_way(self) -> None:
        turn = outcome(service="codex", kind="websocket turn", is_right=False, failed=True)
        self.assertEqual(self.problem(turn, sent(status=529, fault="overloaded")), "")
        self.assertEqual(self.problem(turn, sent()), "lost")

    def test_a_websocket_that_is_closed_between_two_turns(self) -> None:
        turn = broken(service="codex", kind="websocket turn", closed=1012)
        self.assertEqual(self.problem(turn), "")
        self.assertEqual(self.problem(turn, sent()), "lost", "the upstream had begun the turn")
        turn.closed = 1006
        self.assertEqual(self.problem(turn), "lost")

    def test_an_idle_connection_that_was_closed(self) -> None:
        lost = outcome(end=End.BROKEN, status=0, is_right=False, reused=True)
        self.assertEqual(self.problem(lost), "")
        self.assertEqual(self.problem(lost, sent()), "lost")


class EventTests(JudgeCase):
    def test_the_killed_lender_breaks_what_it_serves(self) -> None:
        killed = Event(KILLED, 99.0, 110.0)
        self.assertEqual(self.problem(broken(), sent(account="lent", state="gone"), events=[killed]), "")
        self.assertEqual(self.problem(broken(), sent(account="own-1", state="gone"), events=[killed]), "lost")
        self.assertEqual(self.problem(broken(), sent(account="lent", state="gone")), "lost")

    def test_without_the_lender_its_borrowers_are_refused(self) -> None:
        killed = Event(KILLED, 99.0, float("inf"))
        unavailable = refused(400, "credential_unavailable", user="borrower")
        self.assertEqual(self.problem(unavailable, events=[killed]), "")
        self.assertEqual(self.problem(unavailable), "lost")
        unavailable.user = "alice"
        self.assertEqual(self.problem(unavailable, events=[killed]), "lost")

    def test_an_event_long_ago_explains_nothing(self) -> None:
        unavailable = refused(400, "credential_unavailable", user="borrower")
        self.assertEqual(self.problem(unavailable, events=[Event(KILLED, 10.0, 90.0)]), "lost")
        self.assertEqual(self.problem(unavailable, events=[Event(KILLED, 102.0, 110.0)]), "lost")

    def test_a_refused_refresh(self) -> None:
        refresh = Event(REFRESH_REFUSED, 60.0, 60.0)
        for refusal in (refused(503, "credential_delayed"), refused(503, "busy", user="borrower")):
            self.assertEqual(self.problem(refusal, events=[refresh]), "")
            self.assertEqual(self.problem(refusal), "lost")
        self.assertEqual(self.problem(refused(502, "upstream_lost"), events=[refresh]), "lost")

    def test_an_event_of_another_service_explains_nothing(self) -> None:
        busy = refused(429, "busy")
        self.assertEqual(self.problem(busy, events=[Event(BUSY, 90.0, 90.0, "claude")]), "")
        self.assertEqual(self.problem(busy, events=[Event(BUSY, 90.0, 90.0, "codex")]), "lost")

    def test_nothing_is_ever_used_up(self) -> None:
        """Accounts have room throughout the run: to say otherwise turns users away for nothing (spec 12.2)."""
        used_up = refused(429, "rate_limited", user="borrower")
        events = [Event(name, 99.0, 110.0) for name in (BUSY, KILLED, DISK_FULL)]
        self.assertEqual(self.problem(used_up, events=events), "turned away")

    def test_a_full_disk_heals_within_a_minute(self) -> None:
        unavailable = refused(400, "credential_unavailable", user="bob")
        self.assertEqual(self.problem(unavailable, events=[Event(DISK_FULL, 10.0, 70.0)]), "")
        self.assertEqual(self.problem(unavailable, events=[Event(DISK_FULL, 10.0, 20.0)]), "lost")
        expired = Try(100.0, "own-1", None, 401, "finished")
        self.assertEqual(self.problem(unavailable, expired, events=[Event(DISK_FULL, 10.0, 70.0)]), "")
        unavailable.user = "alice"
        self.assertEqual(self.problem(unavailable, events=[Event(DISK_FULL, 10.0, 70.0)]), "lost", "a pool")


class DoubledTests(JudgeCase):
    def repeats(self, *tries: Try, events: Sequence[Event] = ()) -> tuple[str, Sequence[str]]:
        """The problem, and the rules."""
        judgement = self.judged(outcome(), *tries, events=events)
        return judgement.problem, judgement.repeats

    def test_a_request_that_is_sent_twice(self) -> None:
        judgement = self.judged(outcome(), sent(), sent(at=100.2, account="own-2"))
        self.assertEqual(judgement.problem, "doubled")
        self.assertEqual(judgement.why, "sent again 0.1 s after 200 by own-1 (no fault, finished)")

    def test_the_providers_trouble_is_no_reason(self) -> None:
        for status, fault in ((529, "overloaded"), (500, "server_error"), (503, "unavailable")):
            refusal = sent(status=status, fault=fault)
            self.assertEqual(self.repeats(refusal, sent(account="own-2"))[0], "doubled", fault)

    def test_a_lost_connection(self) -> None:
        """Only a reused one, only at once, only once, only on the same account (spec 12.3)."""
        lost = sent(fault="cut", state="broken", reused=True)
        rule = "reused connection lost within 1 s (spec 12.3)"
        self.assertEqual(self.repeats(lost, sent(at=100.5)), ("", (rule,)))
        fresh = sent(fault="cut", state="broken")
        self.assertEqual(self.repeats(fresh, sent(at=100.5))[0], "doubled")
        self.assertEqual(self.repeats(lost, sent(at=103.0))[0], "doubled")
        again = sent(at=100.3, fault="cut", state="broken", reused=True)
        self.assertEqual(self.repeats(lost, again, sent(at=100.5))[0], "doubled")
        self.assertEqual(self.repeats(lost, sent(at=100.5, account="own-2"))[0], "doubled")
        busy = sent(account="own-2", status=429, fault="rate_limited")
        self.assertEqual(self.repeats(busy, lost, sent(at=100.5))[0], "", "the first that was lost")
        timed_out = sent(fault="hang", state="gone", reused=True)
        self.assertEqual(self.repeats(timed_out, sent(at=100.5))[0], "doubled")

    def test_another_account_is_asked(self) -> None:
        busy = sent(status=429, fault="rate_limited")
        self.assertEqual(
            self.repeats(busy, sent(account="own-2")), ("", ("429: another account is asked (spec 12.1)",))
        )
        self.assertEqual(self.repeats(busy, sent())[0], "doubled", "the same account")
        failed = sent(fault="error_first")
        self.assertEqual(self.repeats(failed, sent(account="own-2"))[0], "")
        self.assertEqual(self.repeats(failed, sent())[0], "doubled")

    def test_an_answer_that_is_no_second_opinion(self) -> None:
        """Once a refusal is put to others, a provider's trouble on the way does not end that."""
        first, overloaded = sent(status=429, fault="rate_limited"), sent(account="own-2", status=529)
        self.assertEqual(self.repeats(first, overloaded, sent(account="own-3"))[0], "")
        self.assertEqual(self.repeats(first, overloaded, sent(account="own-2"))[0], "doubled")
        self.assertEqual(self.repeats(overloaded, sent(account="own-3"))[0], "doubled")

    def test_a_refused_token(self) -> None:
        refusal = sent(status=401, fault="unauthorized")
        self.assertEqual(self.repeats(refusal, sent())[0], "")

    def test_the_killed_lender(self) -> None:
        lost = sent(account="lent", state="gone")
        killed = Event(KILLED, 100.2, 110.0)
        self.assertEqual(self.repeats(lost, sent(), events=[killed])[0], "")
        self.assertEqual(self.repeats(lost, sent())[0], "doubled")

    def test_daemon_and_lender_each_repeat_once(self) -> None:
        lost = sent(fault="cut", state="broken", reused=True)
        busy = sent(at=100.3, status=429, fault="rate_limited")
        lent = sent(at=100.5, account="lent", fault="cut", state="broken", reused=True)
        self.assertEqual(self.repeats(lost, busy, lent, sent(at=100.7, account="lent"))[0], "")
        again = sent(at=100.6, account="lent", fault="cut", state="broken", reused=True)
        self.assertEqual(self.repeats(lost, busy, lent, again, sent(at=100.7, account="lent"))[0], "doubled")

    def test_what_the_lenders_upstream_may_have_acted_on(self) -> None:
        """The lender says that its upstream was lost: no other member is asked (spec 12.3)."""
        lost = sent(account="lent", fault="cut", state="broken", reused=True)
        self.assertEqual(self.repeats(lost, sent())[0], "doubled")

    def test_too_many(self) -> None:
        many = [sent(account=f"own-{n}", status=401, fault="unauthorized") for n in range(MOST_SENDS + 1)]
        self.assertEqual(self.repeats(*many)[0], "doubled")

    def test_sent_although_it_is_not_for_the_upstream(self) -> None:
        wrong = refused(401, "unauthenticated", reaches=False, expected=401)
        self.assertEqual(self.problem(wrong), "")
        self.assertEqual(self.problem(wrong, sent()), "doubled")
        wrong.status = 200
        self.assertEqual(self.problem(wrong), "lost")


class RunningTests(JudgeCase):
    def test_an_answer_that_goes_on_without_its_client(self) -> None:
        left = outcome(end=End.LEFT, status=0, is_right=False)
        self.assertEqual(self.problem(left, sent(state="answering")), "running")
        opening = outcome(kind="websocket opening", status=101)
        connected = sent(status=101, state="answering", endpoint="websocket")
        self.assertEqual(self.problem(opening, connected), "")
