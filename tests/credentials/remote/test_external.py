"""Tests of :mod:`ccmproxy.credentials.remote.external`: a remote by its URL, and over reverse connections."""

from __future__ import annotations

from math import ceil
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.credentials.credential import REJECTION
from ccmproxy.credentials.remote.external import DEFAULT_WEIGHT, FORCED_POLL_INTERVAL, NO_REVERSE
from ccmproxy.dialects.oauth import RemoteToken
from ccmproxy.http.failures import RequestNotSent
from ccmproxy.http.message import RequestHead, first_value, values
from ccmproxy.interfaces.credentials import CredentialUnavailable, ICredential, ILease
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.state.limits import LimitsUpdate, Window
from tests.credentials.fixtures import NOW
from tests.credentials.remote.scene import SECRET, URL, RemoteScene, Reverse
from tests.http.conversation import OK
from tests.http.upstream import Receiver

HOUR = 3600.0
USABLE = ("usable", "")
FAILED = ("temporarily_blocked", "poll_failed")
UNAVAILABLE = ("unavailable", "unavailable")


class ExternalCase(SynchronousTestCase):
    """A scene with one remote. ``options``: of the credential."""

    options: dict[str, Any] = {}

    def setUp(self) -> None:
        self.scene = RemoteScene(self, **self.options)
        self.external = self.scene.external
        self.direct = self.scene.direct

    def send(self, path: bytes = b"/v1/messages") -> Receiver:
        """Send a request to the remote by its present route."""
        receiver = Receiver()
        head = RequestHead(b"GET", self.external.upstream.base_path + path, [(b"Host", b"x")])
        self.external.upstream.connections.send(head, [], receiver)
        receiver.sent = True
        self.scene.settle()
        return receiver

    def authorize(self) -> object:
        """Return the authorization that requests are sent with."""
        return self.successResultOf(Deferred.fromCoroutine(self.external.authorize()))


class InterfaceTests(ExternalCase):
    def test_interfaces(self) -> None:
        self.assertTrue(verifyObject(ICredential, self.external))
        lease = self.external.lease()
        self.assertTrue(verifyObject(ILease, lease))
        self.assertTrue(lease.is_external)
        lease.close(LeaseOutcome.SERVED)

    def test_what_requests_are_sent_with(self) -> None:
        self.assertEqual(self.authorize(), RemoteToken(SECRET))
        self.assertEqual(self.external.upstream.host, b"friend.test:8080")
        self.assertEqual(self.external.upstream.base_path, b"/team")
        self.assertNotIn(SECRET, f"{self.external!r} {self.external.status_request()!r}")

    def test_before_it_is_started(self) -> None:
        self.scene.pass_time(10)
        self.external.poll_if_stale()
        self.external.poll_if_unusable()
        self.scene.settle()
        self.assertEqual(self.scene.listener.attempts, 0)
        self.assertEqual(self.scene.clock.getDelayedCalls(), [])


class NormalTests(ExternalCase):
    """With a URL."""

    def test_polled_and_watched_at_start(self) -> None:
        self.assertEqual(self.scene.state, UNAVAILABLE)
        self.scene.start()
        self.assertEqual(self.scene.state, USABLE)
        self.assertEqual(self.scene.used, (20, 40))
        self.assertEqual((len(self.direct.polls), len(self.direct.streams)), (1, 1))
        for request, target in (
            (self.direct.polls[0], b"/team/ccm/v1/status"),
            (self.direct.streams[0], b"/team/ccm/v1/status?watch=true"),
        ):
            self.assertEqual(request.head.target, target)
            self.assertEqual(values(request.head.headers, b"authorization"), [f"Bearer {SECRET}".encode()])
            self.assertEqual(first_value(request.head.headers, b"host"), b"friend.test:8080")
            self.assertEqual(first_value(request.head.headers, b"user-agent"), b"ccmproxy/test")

    def test_usable_before_anything_is_known(self) -> None:
        """A remote is used even if it has not reported a state yet."""
        self.direct.hangs = True
        self.direct.stream_status = 404
        self.scene.start()
        self.assertEqual(self.scene.state, USABLE)
        self.assertEqual(self.external.state.plan_weight, DEFAULT_WEIGHT)
        self.scene.pass_time(20)

    def test_started_twice(self) -> None:
        self.scene.start()
        self.scene.start()
        self.assertEqual((len(self.direct.polls), len(self.direct.streams)), (1, 1))

    def test_every_hour(self) -> None:
        self.direct.stream_status = 404
        self.scene.start()
        self.scene.pass_time(HOUR - 60, step=30)
        self.assertEqual(len(self.direct.polls), 1)
        self.scene.pass_time(120, step=30)
        self.assertEqual(len(self.direct.polls), 2)

    def test_the_stream_puts_polls_off(self) -> None:
        self.scene.start()
        for _ in range(10):
            self.scene.pass_time(HOUR / 2, step=300)
            self.direct.tell()
            self.scene.settle()
        self.assertEqual(len(self.direct.polls), 1)

    def test_failures_block_and_the_next_success_clears(self) -> None:
        self.direct.stream_status = 404
        self.scene.start()
        for status in (500, 401, 404, 302):
            self.direct.status = status
            self.external._poller.poll()
            self.scene.settle()
            self.assertEqual(self.scene.state, FAILED, status)
            self.direct.status = 200
            self.scene.pass_time(61, step=20)
            self.assertEqual(self.scene.state, USABLE, status)

    def test_ever_longer_between_failures(self) -> None:
        self.direct.status = 500
        self.direct.stream_status = 404
        self.scene.start()
        asked = []
        for _ in range(240):
            before = len(self.direct.polls)
            self.scene.pass_time(5, step=5)
            if len(self.direct.polls) > before:
                asked.append(self.scene.clock.seconds() - NOW)
        # Within seconds of the start, as nothing is known yet (spec 14), and rarely after a while; in steps of 5 s.
        self.assertEqual(asked, [5, 10, 20, 50, 110, 230, 470, 770, 1070])

    def test_nobody_there(self) -> None:
        self.scene.listener.refusing = True
        self.scene.start()
        self.scene.pass_time(2)
        self.assertEqual(self.scene.state, FAILED)
        self.scene.listener.refusing = False
        self.scene.pass_time(61)
        self.assertEqual(self.scene.state, USABLE)

    def test_an_answer_that_never_comes(self) -> None:
        self.direct.hangs = True
        self.direct.stream_status = 404
        self.scene.start()
        self.scene.pass_time(17)
        self.assertEqual(self.scene.state, FAILED)
        self.assertEqual(len(self.direct.polls), 3)

    def test_nonsense(self) -> None:
        """This counts as a failure, not as a remote that is used up."""
        self.direct.stream_status = 404
        for document in ({}, {"plan_weight": 5}, self.direct.document | {"weekly_utilization": "hush"}):
            self.direct.document = document
            self.scene.start()
            self.external._poller.poll()
            self.scene.settle()
            self.assertEqual(self.scene.state, FAILED)
        self.assertNotIn("hush", self.scene.logged())

    def test_a_429_puts_the_poll_off(self) -> None:
        """The credential is not marked: the endpoint only refuses polls for now."""
        self.direct.stream_status = 404
        self.direct.status, self.direct.headers = 429, [(b"Retry-After", b"100")]
        self.scene.start()
        self.assertEqual(self.scene.state, USABLE)
        self.direct.status, self.direct.headers = 200, []
        self.scene.pass_time(99)
        self.external.poll_if_stale()
        self.scene.settle()
        self.assertEqual(len(self.direct.polls), 1)
        self.scene.pass_time(2)
        self.assertEqual(len(self.direct.polls), 2)
        self.assertEqual(self.scene.used, (20, 40))

    def test_the_stream_clears_a_failure(self) -> None:
        self.scene.start()
        self.direct.status = 500
        self.external._poller.poll()
        self.scene.settle()
        self.assertEqual(self.scene.state, FAILED)
        self.direct.tell(weekly_utilization=50)
        self.scene.settle()
        self.assertEqual((self.scene.state, self.scene.used), (USABLE, (20, 50)))
        self.scene.pass_time(400, step=10)
        self.assertEqual(len(self.direct.polls), 2)
        self.assertEqual(self.scene.state, USABLE)

    def test_a_remote_that_dies(self) -> None:
        """The end of its stream reports the loss at once, not the next poll an hour later; its return is noticed
        likewise."""
        self.scene.start()
        self.scene.listener.refusing = True
        self.direct.factory.abort_all()
        self.scene.pass_time(3)
        self.assertEqual(self.scene.state, FAILED)
        polls = len(self.direct.polls)
        self.scene.listener.refusing = False
        self.scene.pass_time(7)
        self.assertEqual(self.scene.state, USABLE)
        self.assertEqual(len(self.direct.polls), polls)

    def test_a_remote_that_ends_its_stream(self) -> None:
        """The remote is still there, as far as is known."""
        self.scene.start()
        self.direct.streams[0].finish()
        self.scene.pass_time(4)
        self.assertEqual((len(self.direct.polls), len(self.direct.streams)), (1, 2))

    def test_requests_that_do_not_reach_it(self) -> None:
        """They cause a poll, and only one until it is known whether the remote is there."""
        self.direct.stream_status = 404
        self.scene.start()
        for times, polls in ((3, 2), (3, 3)):
            for _ in range(times):
                self.external.lease().close(LeaseOutcome.UNREACHABLE)
                self.scene.settle()
            self.assertEqual(len(self.direct.polls), polls)
            self.assertEqual(self.scene.state, USABLE)
            self.scene.pass_time(FORCED_POLL_INTERVAL)
        self.external.lease().close(LeaseOutcome.SERVED)
        self.scene.settle()
        self.assertEqual(len(self.direct.polls), 3)
        self.direct.status = 500
        for _ in range(3):
            self.external.lease().close(LeaseOutcome.UNREACHABLE)
            self.scene.pass_time(FORCED_POLL_INTERVAL + 1)
        self.assertEqual((len(self.direct.polls), self.scene.state), (4, FAILED))

    def test_a_stream_on_which_nothing_comes(self) -> None:
        """The stream may be silent for hours when the remote has nothing to report."""
        self.scene.start()
        self.scene.pass_time(2 * HOUR, step=300)
        self.assertEqual(len(self.direct.streams), 1)
        self.assertFalse(self.direct.streams[0].is_over)

    def test_a_stream_that_ends_keeps_no_connection(self) -> None:
        self.scene.start()
        self.direct.streams[0].finish()
        self.scene.pass_time(1.5, step=0.5)
        kept = [pump for pump in self.scene.listener.connections if not pump.client.disconnected]
        self.assertEqual(kept, [])

    def test_a_429_that_asks_for_no_delay(self) -> None:
        """Not every request causes a poll then."""
        self.direct.stream_status = 404
        self.direct.status, self.direct.headers = 429, [(b"Retry-After", b"0")]
        self.scene.start()
        self.external.poll_if_stale()
        self.scene.settle()
        self.assertEqual(len(self.direct.polls), 1)

    def test_a_429_between_failures(self) -> None:
        """After the 429 the back-off starts again from the beginning."""
        self.direct.stream_status = 404
        self.scene.start()
        self.direct.polls.clear()
        self.direct.status = 500
        self.external._poller.poll()
        self.scene.settle()
        self.direct.status, self.direct.headers = 429, [(b"Retry-After", b"1")]
        self.scene.pass_time(60)
        self.assertEqual(len(self.direct.polls), 2)
        self.scene.pass_time(59)
        self.assertEqual(len(self.direct.polls), 2)
        self.scene.pass_time(1)
        self.assertEqual(len(self.direct.polls), 3)

    def test_a_stream_that_was_given_up(self) -> None:
        """The stream is requested again after a poll that succeeds."""
        self.direct.stream_status = 404
        self.scene.start()
        # The poll and the stream were in flight together; the next poll is the first one after the refusal.
        before = len(self.direct.streams)
        self.scene.pass_time(600, step=10)
        self.assertEqual(len(self.direct.streams), before)
        self.direct.stream_status = 200
        self.external._poller.poll()
        self.scene.settle()
        self.assertEqual(len(self.direct.streams), before + 1)
        self.direct.tell(weekly_utilization=77)
        self.scene.settle()
        self.assertEqual(self.scene.used, (20, 77))


class UnusableTests(ExternalCase):
    """Extra polls (spec 5.5), and rejections (spec 4.4)."""

    def setUp(self) -> None:
        super().setUp()
        self.direct.stream_status = 404
        self.scene.start()

    def test_one_that_is_usable_is_not_asked(self) -> None:
        self.external.poll_if_unusable()
        self.scene.settle()
        self.assertEqual(len(self.direct.polls), 1)

    def test_rejected(self) -> None:
        self.external.reject()
        self.assertEqual(self.scene.state, ("temporarily_blocked", "rejected"))
        self.external.poll_if_unusable()
        self.scene.settle()
        self.assertEqual(len(self.direct.polls), 2)
        self.assertEqual(self.scene.state, USABLE)

    def test_not_too_often(self) -> None:
        self.direct.status = 500
        self.external.reject()
        for _ in range(20):
            self.external.poll_if_unusable()
            self.scene.settle()
        self.assertEqual(len(self.direct.polls), 2)
        self.scene.pass_time(FORCED_POLL_INTERVAL - 0.5, step=0.5)
        self.external.poll_if_unusable()
        self.scene.settle()
        self.assertEqual(len(self.direct.polls), 2)
        self.scene.pass_time(0.5)
        self.external.poll_if_unusable()
        self.scene.settle()
        self.assertEqual(len(self.direct.polls), 3)

    def test_a_clock_that_was_set(self) -> None:
        """The remote is polled at once; extra polls, and the end of a rejection, come when they would have come
        (spec 11)."""
        self.direct.status = 500
        for by in (-3 * 3600.0, 20 * 3600.0):
            with self.subTest(by=by):
                self.external.reject()
                self.scene.pass_time(FORCED_POLL_INTERVAL)
                self.external.poll_if_unusable()
                self.scene.settle()
                polls = len(self.direct.polls)
                self.scene.set_clock(by)
                self.assertEqual(len(self.direct.polls), polls + 1)
                self.assertEqual(self.scene.state[0], "temporarily_blocked")
                self.external.poll_if_unusable()
                self.scene.settle()
                self.assertEqual(len(self.direct.polls), polls + 1)
                self.scene.pass_time(FORCED_POLL_INTERVAL)
                self.external.poll_if_unusable()
                self.scene.settle()
                self.assertEqual(len(self.direct.polls), polls + 2)
                self.scene.pass_time(REJECTION - 60, step=30)
                self.assertLess(self.external.state.rejected_until - self.external._now(), 60)

    def test_a_rejection_ends(self) -> None:
        self.direct.status = 500
        self.external.reject()
        self.scene.pass_time(REJECTION - 30, step=30)
        self.assertEqual(self.scene.state[0], "temporarily_blocked")
        self.scene.pass_time(60, step=30)
        self.assertEqual(self.scene.state, FAILED)

    def test_a_token_that_is_not_accepted(self) -> None:
        """There is no other token, so the remote is not used for a while."""
        recovered = Deferred.fromCoroutine(self.external.recover(RemoteToken(SECRET)))
        error = self.failureResultOf(recovered, CredentialUnavailable).value
        self.assertNotIn(SECRET, str(error))
        self.assertEqual(self.scene.state, ("temporarily_blocked", "rejected"))

    def test_requests_that_wait_are_interrupted(self) -> None:
        lease = self.external.lease()
        causes: list[str] = []
        lease.on_interrupt(lambda cause: causes.append(cause.reason))
        self.external.reject()
        self.assertEqual(causes, ["rejected"])
        lease.close(LeaseOutcome.INTERRUPTED)


class StateTests(ExternalCase):
    """Reported values replace the known ones, also if they are lower (spec 4.7, 5.2, 7.5)."""

    def setUp(self) -> None:
        super().setUp()
        self.scene.start()

    def observe(self, weekly: float, **more: Any) -> None:
        """Return an update as an answer reports it."""
        self.external.observe(
            LimitsUpdate(weekly=Window(weekly, NOW + 86400, 604800.0), short=Window(1, 0, 18000.0), **more)
        )

    def test_answers(self) -> None:
        for weekly in (90, 10, 55.5, 0):
            self.observe(weekly)
            self.assertEqual(self.scene.used, (1, weekly))

    def test_streamed_states(self) -> None:
        for weekly in (90, 10, 100, 0):
            self.direct.tell(weekly_utilization=weekly)
            self.scene.settle()
            self.assertEqual(self.scene.used, (20, weekly))
            self.assertEqual(self.scene.state[0], "rate_limited" if weekly == 100 else "usable")

    def test_weight(self) -> None:
        self.assertEqual(self.external.state.plan_weight, 15)
        self.observe(10, plan_weight=3.0)
        self.assertEqual(self.external.state.plan_weight, 3)
        self.observe(11)
        self.assertEqual(self.external.state.plan_weight, 3)
        self.direct.tell(plan_weight=7.5)
        self.scene.settle()
        self.assertEqual(self.external.state.plan_weight, 7.5)

    def test_a_weight_of_nothing(self) -> None:
        """None of the remote's credentials counts at the moment, which says nothing about its usual weight."""
        self.direct.tell(plan_weight=0, five_hour_utilization=100, weekly_utilization=100)
        self.scene.settle()
        self.assertEqual(self.external.state.plan_weight, 15)
        self.assertEqual(self.scene.state[0], "rate_limited")

    def test_the_remotes_own_word(self) -> None:
        """The remote reports that it is limited although no window is full, and later that it is usable again."""
        reset = NOW + 600
        self.direct.tell(availability={"state": "rate_limited", "reset_at": reset})
        self.scene.settle()
        availability = self.external.snapshot(self.scene.clock.seconds()).availability
        self.assertEqual((availability.state, availability.reset_at), ("rate_limited", reset))
        self.direct.tell(availability={"state": "usable", "reason": "", "reset_at": 0})
        self.scene.settle()
        self.assertEqual(self.scene.state, USABLE)

    def test_the_same_reset_in_whole_seconds(self) -> None:
        """It is told anew with every state, and is no change of one."""
        reset = NOW + 600
        seen = set()
        for number in range(6):
            now = self.scene.clock.seconds()
            times = {"reset_at": reset, "reset_in": ceil(reset - now)}
            self.direct.tell(plan_weight=15 + number % 2, availability={"state": "rate_limited", **times})
            self.scene.settle()
            seen.add(self.external.snapshot(now).availability.reset_at)
            self.scene.clock.advance(1.3)
        self.assertEqual(len(seen), 1)
        self.direct.tell(availability={"state": "rate_limited", "reset_in": 100})
        self.scene.settle()
        now = self.scene.clock.seconds()
        self.assertAlmostEqual(self.external.snapshot(now).availability.reset_at, now + 100, delta=1)

    def test_the_remotes_clock_is_wrong(self) -> None:
        """It has a few seconds to wait, and says until when by its own clock as well."""
        for ahead in (-3 * HOUR, 3 * HOUR):
            times = {"reset_at": self.scene.clock.seconds() + ahead + 20, "reset_in": 20}
            self.direct.tell(availability={"state": "rate_limited", **times})
            self.scene.settle()
            now = self.scene.clock.seconds()
            availability = self.external.snapshot(now).availability
            self.assertEqual(availability.state, "rate_limited")
            self.assertAlmostEqual(availability.reset_at, now + 20, delta=5)
            self.scene.clock.advance(21)
            self.assertEqual(self.scene.state, USABLE)

    def test_out_of_service(self) -> None:
        """It is not used up, whatever its windows say, and is asked where nobody else can serve; no time is known."""
        for word in (
            {"state": "unavailable", "reason": "unavailable", "reset_at": 0},
            {"state": "temporarily_blocked", "reason": "refused", "reset_at": NOW + 60},
        ):
            self.direct.tell(
                plan_weight=0, five_hour_utilization=100, weekly_utilization=100, availability=word
            )
            self.scene.settle()
            self.assertEqual(self.scene.state, ("temporarily_blocked", "rejected"))
            availability = self.external.snapshot(self.scene.clock.seconds()).availability
            self.assertEqual((availability.reset_at, availability.worth_trying), (0.0, True))
            self.assertNotIn(100.0, self.scene.used, "the windows are not full")
            self.direct.tell(availability={"state": "usable", "reason": "", "reset_at": 0})
            self.scene.settle()
            self.assertEqual(self.scene.state, USABLE)

    def test_a_word_that_is_over(self) -> None:
        for word in (
            {"state": "rate_limited", "reset_at": NOW - 5},
            {"state": "usable", "reset_at": NOW + 5},
        ):
            self.direct.tell(availability=word)
            self.scene.settle()
            self.assertEqual(self.scene.state, USABLE)

    def test_usable_ends_a_limit_that_an_answer_named(self) -> None:
        self.external.rate_limited(NOW + 5000, True)
        self.direct.tell()
        self.scene.settle()
        self.assertEqual(self.scene.state[0], "rate_limited")
        self.direct.tell(availability={"state": "usable"})
        self.scene.settle()
        self.assertEqual(self.scene.state, USABLE)

    def test_a_full_window_passes_by_itself(self) -> None:
        self.direct.tell(five_hour_utilization=100, five_hour_reset=NOW + 100)
        self.scene.settle()
        self.assertEqual(self.scene.state[0], "rate_limited")
        changes = self.scene.changes
        self.scene.pass_time(101)
        self.assertEqual(self.scene.state, USABLE)
        self.assertGreater(self.scene.changes, changes)

    def test_listeners_are_told(self) -> None:
        changes = self.scene.changes
        self.direct.tell(weekly_utilization=41)
        self.scene.settle()
        self.assertEqual(self.scene.changes, changes + 1)
        self.direct.tell()
        self.scene.settle()
        self.assertEqual(self.scene.changes, changes + 1)


class FixedWeightTests(ExternalCase):
    options = {"plan_weight": 50.0}

    def test_nothing_else_counts(self) -> None:
        self.scene.start()
        self.assertEqual(self.external.state.plan_weight, 50)
        self.external.observe(LimitsUpdate(weekly=Window(5, 0, 604800.0), plan_weight=3.0))
        self.assertEqual(self.external.state.plan_weight, 50)
        self.direct.tell(plan_weight=2)
        self.scene.settle()
        self.assertEqual(self.external.state.plan_weight, 50)

    def test_reconfigured(self) -> None:
        self.scene.start()
        self.external.reconfigure(60.0)
        self.assertEqual(self.external.state.plan_weight, 60)
        self.external.reconfigure(None)
        self.scene.settle()
        self.assertEqual(self.external.state.plan_weight, 15)
        self.external.reconfigure(5.0)
        self.scene.settle()
        self.assertEqual(self.external.state.plan_weight, 5)


class ConnectorTests(ExternalCase):
    """A remote whose connector this instance is: it is polled, not watched (spec 7.5)."""

    options = {"is_connector": True}

    def test_no_stream(self) -> None:
        self.scene.start()
        self.assertEqual(self.scene.state, USABLE)
        self.assertEqual((len(self.direct.polls), len(self.direct.streams)), (1, 0))
        self.scene.pass_time(100, step=10)
        self.assertEqual(len(self.direct.streams), 0)


class ReceiverTests(ExternalCase):
    """A remote without a URL is available only while its reverse connection is open."""

    options = {"url": None}

    def test_unavailable_at_first(self) -> None:
        self.scene.start()
        availability = self.external.snapshot(self.scene.clock.seconds()).availability
        self.assertEqual((availability.state, availability.message), ("unavailable", NO_REVERSE))
        self.assertEqual(self.scene.clock.getDelayedCalls(), [])
        error = self.failureResultOf(Deferred.fromCoroutine(self.external.authorize()), CredentialUnavailable)
        self.assertEqual(str(error.value), NO_REVERSE)
        self.assertRaises(CredentialUnavailable, self.external.stream_endpoint)
        receiver = self.send()
        self.assertIsInstance(receiver.outcome, RequestNotSent)

    def test_polls_do_not_fail_for_want_of_a_way(self) -> None:
        self.scene.start()
        self.external.poll_if_stale()
        self.external.poll_if_unusable()
        self.scene.pass_time(100, step=10)
        self.assertEqual(self.external.state.poll_failures, 0)

    def test_a_connection_comes(self) -> None:
        """The status changes, and the state is polled at once."""
        self.scene.start()
        changes = self.scene.changes
        reverse = Reverse(self.scene)
        self.assertEqual(self.scene.state, USABLE)
        self.assertGreater(self.scene.changes, changes)
        self.scene.settle()
        self.assertEqual((len(reverse.side.polls), len(reverse.side.streams)), (1, 1))
        self.assertEqual(self.scene.used, (20, 40))
        self.assertEqual(self.authorize(), RemoteToken(SECRET))
        self.send()
        (request,) = reverse.side.others
        self.assertEqual(request.head.target, b"/v1/messages")

    def test_requests_are_addressed_without_a_name(self) -> None:
        self.scene.start()
        reverse = Reverse(self.scene)
        self.scene.settle()
        (poll,), (stream,) = reverse.side.polls, reverse.side.streams
        self.assertEqual(poll.head.target, b"/ccm/v1/status")
        self.assertEqual(stream.head.target, b"/ccm/v1/status?watch=true")
        self.assertEqual(first_value(stream.head.headers, b"host"), self.external.upstream.host)

    def test_a_connection_before_the_start(self) -> None:
        reverse = Reverse(self.scene)
        self.scene.settle()
        self.assertEqual((reverse.side.polls, self.scene.state), ([], UNAVAILABLE))
        self.scene.start()
        self.assertEqual(self.scene.state, USABLE)
        self.assertEqual((len(reverse.side.polls), len(reverse.side.streams)), (1, 1))

    def test_a_connection_goes(self) -> None:
        """The remote is unavailable at once and no longer polled. Requests in flight learn of it from their
        connections."""
        self.scene.start()
        reverse = Reverse(self.scene)
        self.scene.settle()
        receiver = self.send()
        reverse.lose()
        self.scene.settle()
        self.assertEqual(self.scene.state, UNAVAILABLE)
        self.assertIsNotNone(receiver.outcome)
        self.scene.pass_time(10)
        self.assertEqual(self.external.state.poll_failures, 0)
        # The state is kept, since the same remote comes back.
        self.assertEqual(self.scene.used, (20, 40))

    def test_it_comes_back(self) -> None:
        self.scene.start()
        for number in range(3):
            reverse = Reverse(self.scene)
            reverse.side.document["weekly_utilization"] = number
            self.scene.settle()
            self.assertEqual((self.scene.state, self.scene.used), (USABLE, (20, number)))
            reverse.lose()
            self.scene.settle()
            self.assertEqual(self.scene.state, UNAVAILABLE)

    def test_it_comes_back_and_says_nothing_yet(self) -> None:
        """It keeps the weight that it had."""
        self.scene.start()
        first = Reverse(self.scene)
        self.scene.settle()
        first.lose()
        self.scene.settle()
        second = Reverse(self.scene)
        second.side.hangs, second.side.stream_status = True, 404
        self.scene.settle()
        self.assertEqual((self.scene.state, self.external.state.plan_weight), (USABLE, 15))

    def test_the_newest_counts(self) -> None:
        self.scene.start()
        first = Reverse(self.scene)
        self.scene.settle()
        self.send()
        second = Reverse(self.scene)
        self.scene.settle()
        self.assertEqual((first.closed, second.closed), (1, 0))
        self.assertEqual((len(second.side.polls), len(second.side.streams)), (1, 1))
        self.send()
        self.assertEqual((len(first.side.others), len(second.side.others)), (1, 1))
        # Requests in flight on the old connection may finish, and its loss does not affect the new one.
        self.scene.pass_time(11)
        self.assertTrue(first.pump.closed)
        self.assertEqual(self.scene.state, USABLE)
        second.lose()
        self.scene.settle()
        self.assertEqual(self.scene.state, UNAVAILABLE)

    def test_an_answer_over_one_that_was_replaced(self) -> None:
        """The answer is received completely."""
        self.scene.start()
        first = Reverse(self.scene)
        self.scene.settle()
        receiver = self.send()
        (request,) = first.side.others
        second = Reverse(self.scene)
        self.scene.settle()
        request.respond(OK, b"served")
        self.scene.settle()
        self.assertEqual((receiver.outcome, receiver.body), ("ended", b"served"))
        self.assertTrue(first.pump.closed)
        self.assertFalse(second.pump.closed)

    def test_one_that_was_replaced_takes_no_more(self) -> None:
        """The new connection is not affected."""
        self.scene.start()
        first = Reverse(self.scene)
        second = Reverse(self.scene)
        self.scene.settle()
        self.external.leaving(first)
        self.scene.settle()
        self.assertEqual((len(second.side.polls), len(second.side.streams)), (1, 1))
        self.assertFalse(second.side.streams[0].is_over)

    def test_one_that_takes_no_more(self) -> None:
        """The remote has announced that it is leaving and is still there: it receives no new requests."""
        self.scene.start()
        reverse = Reverse(self.scene)
        self.scene.settle()
        reverse.theirs.close(30)
        self.scene.settle()
        self.assertFalse(self.external.has_way)
        self.assertIsInstance(self.send().outcome, RequestNotSent)

    def test_one_that_takes_no_more_and_serves_on(self) -> None:
        """New selections skip the remote at once. A request that waits for its answer goes on waiting, and fails only
        if the connection is lost."""
        self.scene.start()
        reverse = Reverse(self.scene)
        self.scene.settle()
        lease = self.external.lease()
        causes: list[str] = []
        lease.on_interrupt(lambda cause: causes.append(cause.reason))
        receiver = self.send()
        reverse.ours.on_peer_leaving = lambda: self.external.leaving(reverse)
        reverse.theirs.close(30)
        self.scene.settle()
        self.assertEqual((self.scene.state, causes), (UNAVAILABLE, []))
        # The status stream is closed, so that the connection can end.
        self.assertTrue(reverse.side.streams[0].is_over)
        (request,) = reverse.side.others
        request.respond(OK, b"served")
        self.scene.settle()
        self.assertEqual((receiver.outcome, receiver.body), ("ended", b"served"))
        self.scene.pass_time(31)
        self.assertEqual(causes, ["unavailable"])
        lease.close(LeaseOutcome.INTERRUPTED)
        Reverse(self.scene)
        self.scene.settle()
        self.assertEqual(self.scene.state, USABLE)


class PreferenceTests(ExternalCase):
    """A remote with a URL and a reverse connection: the reverse connection is preferred, the URL is the fallback (spec
    7.1)."""

    def test_preferred(self) -> None:
        self.scene.start()
        self.send()
        reverse = Reverse(self.scene)
        self.scene.settle()
        self.assertEqual((len(reverse.side.polls), len(reverse.side.streams)), (1, 1))
        self.assertEqual(self.direct.streams[0].is_over, True)
        self.send()
        self.assertEqual((len(self.direct.others), len(reverse.side.others)), (1, 1))
        self.assertEqual(self.external.upstream.base_path, b"")

    def test_lost(self) -> None:
        self.scene.start()
        reverse = Reverse(self.scene)
        self.scene.settle()
        reverse.lose()
        self.scene.settle()
        self.assertEqual(self.scene.state, USABLE)
        self.assertEqual((len(self.direct.polls), len(self.direct.streams)), (2, 2))
        self.assertEqual(self.external.status_request().url, f"{URL}/ccm/v1/status")
        self.send()
        self.assertEqual(len(self.direct.others), 1)

    def test_one_that_takes_no_more(self) -> None:
        """The remote is leaving, with a request in flight: everything else uses the URL."""
        self.scene.start()
        reverse = Reverse(self.scene)
        self.scene.settle()
        self.send()
        reverse.theirs.close(30)
        self.scene.settle()
        self.send()
        self.external._poller.poll()
        self.scene.settle()
        self.assertEqual((len(self.direct.others), len(self.direct.polls)), (1, 2))
        self.assertEqual(self.scene.state, USABLE)

    def test_it_comes_while_the_url_fails(self) -> None:
        """The failure does not count for the new route."""
        self.scene.listener.refusing = True
        self.scene.start()
        self.scene.pass_time(2)
        self.assertEqual(self.scene.state, FAILED)
        Reverse(self.scene)
        self.scene.settle()
        self.assertEqual(self.scene.state, USABLE)

    def test_it_comes_during_a_poll(self) -> None:
        """The poll hangs on the old route, so a new one is made on the new route."""
        self.direct.hangs = True
        self.direct.stream_status = 404
        self.scene.start()
        reverse = Reverse(self.scene)
        reverse.side.stream_status = 404
        reverse.side.document["weekly_utilization"] = 66
        self.scene.settle()
        self.assertEqual(self.scene.used, (20, 66))
        # The old poll is not repeated either: it would send the path of one route over the other.
        for _ in range(30):
            self.scene.pass_time(1)
            self.assertEqual(self.scene.state, USABLE)
        self.assertEqual((len(self.direct.polls), len(reverse.side.polls)), (1, 1))


class WantedTests(ExternalCase):
    """Whether any user may be served by the remote."""

    def asked(self) -> tuple[int, int]:
        """Return the numbers of polls and streams so far."""
        return len(self.direct.polls), len(self.direct.streams)

    def test_nobody(self) -> None:
        """The state is not requested although the remote could serve."""
        self.external.want(False)
        self.scene.start()
        self.external.poll_if_stale()
        self.scene.pass_time(2 * HOUR, step=300)
        self.assertEqual((self.asked(), self.scene.state), ((0, 0), USABLE))

    def test_somebody_after_all(self) -> None:
        self.external.want(False)
        self.scene.start()
        self.external.want(True)
        self.scene.settle()
        self.assertEqual((self.asked(), self.scene.used), ((1, 1), (20, 40)))

    def test_nobody_any_more(self) -> None:
        self.scene.start()
        self.external.want(False)
        self.scene.settle()
        self.assertTrue(self.direct.streams[0].is_over)
        self.scene.pass_time(2 * HOUR, step=300)
        self.assertEqual(self.asked(), (1, 1))

    def test_no_change(self) -> None:
        """The configuration was reloaded without a change."""
        self.scene.start()
        self.external.want(True)
        self.scene.settle()
        self.assertEqual(self.asked(), (1, 1))


class StopTests(ExternalCase):
    """Stopping leaves nothing behind. :meth:`RemoteScene.finish` checks timers and connections."""

    def ended(self) -> None:
        """Assert that nothing is requested any more, whatever happens."""
        asked = len(self.direct.polls) + len(self.direct.streams)
        self.external.poll_if_stale()
        self.external.poll_if_unusable()
        self.external.reconfigure(3.0)
        self.scene.pass_time(20, step=5)
        self.assertEqual(len(self.direct.polls) + len(self.direct.streams), asked)
        self.assertEqual(
            [pump for pump in self.scene.listener.connections if not pump.client.disconnected], []
        )

    def test_while_all_is_well(self) -> None:
        self.scene.start()
        self.external.stop()
        self.scene.settle()
        self.assertTrue(self.direct.streams[0].is_over)
        self.ended()

    def test_during_a_poll(self) -> None:
        self.direct.hangs = True
        self.scene.start()
        self.external.stop()
        self.ended()

    def test_while_failing(self) -> None:
        self.scene.listener.refusing = True
        self.scene.start()
        self.scene.pass_time(5)
        self.external.stop()
        self.ended()

    def test_while_limited(self) -> None:
        self.scene.start()
        self.external.rate_limited(NOW + 500, True)
        self.external.stop()
        self.ended()

    def test_a_reverse_connection(self) -> None:
        """It is closed with a go-away, and its loss restarts nothing."""
        self.scene.start()
        reverse = Reverse(self.scene)
        self.scene.settle()
        self.external.stop()
        self.scene.settle()
        self.assertEqual(reverse.closed, 1)
        self.assertTrue(reverse.pump.closed)
        self.ended()

    def test_twice(self) -> None:
        self.scene.start()
        reverse = Reverse(self.scene)
        self.external.stop()
        self.external.stop()
        self.assertEqual(reverse.closed, 1)
        self.ended()

    def test_never_started(self) -> None:
        self.external.stop()
        self.ended()

    def test_asking_no_more(self) -> None:
        """Requests in flight finish meanwhile."""
        self.scene.start()
        reverse = Reverse(self.scene)
        self.scene.settle()
        receiver = self.send()
        self.external.ask_no_more()
        self.scene.settle()
        self.assertTrue(reverse.side.streams[0].is_over)
        self.assertIsNone(receiver.outcome)
        self.assertFalse(reverse.pump.closed)
        reverse.side.others[0].respond(OK, b"served")
        self.scene.settle()
        self.assertEqual(receiver.body, b"served")
        # The connection of the stream is not kept either.
        self.assertEqual(reverse.ours.streams, 0)
