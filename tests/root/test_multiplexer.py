"""Tests of one entry of ``services:`` with remotes: its life cycle and its reloads (spec 1, Reload, and 7.4)."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.root.multiplexer import RETIRED_GRACE, ListenFailed, end
from tests.conversation import Client
from tests.federated import Federation, Instance, external, user

A, B = 8081, 8082
URL_OF_A, URL_OF_B = f"http://127.0.0.1:{A}", f"http://127.0.0.1:{B}"
SLOW = "[[simulate:slow;seconds=4]]"
HANG = "[[simulate:hang]]"


class MultiplexerCase(SynchronousTestCase):
    """A has an account and opens a reverse connection to B; B has only A. ``more``: further lines of both."""

    more = ""

    def setUp(self) -> None:
        self.federation = Federation(self)
        self.account = self.federation.account("a1")
        self.b = self.add_b()
        self.a = self.add_a()

    def add_a(self, start: bool = True) -> Instance:
        """The lender."""
        credentials = [self.account, external("b", "b", url=URL_OF_B, reverse=True)]
        return self.federation.add(A, credentials, [user("b", "a1")], self.more, start)

    def add_b(self, start: bool = True) -> Instance:
        """The borrower."""
        users = [user("alice", "friend", allow_external_usage=True)]
        return self.federation.add(B, [external("friend", "b")], users, self.more, start)

    def replaced(self, instance: Instance, old: str, new: str) -> None:
        """Reload the instance with a configuration that differs in this way."""
        self.assertIn(old, instance.text)
        instance.text = instance.text.replace(old, new)
        instance.reload(instance.text)
        self.federation.settle()

    def stop(self, instance: Instance) -> Deferred[None]:
        """Begin to stop."""
        stopped = instance.service.stopService()
        self.federation.settle()
        return stopped

    def status(self, client: Client) -> int:
        """Return the status of the last complete answer."""
        response = client.responses()[-1]
        self.assertTrue(response.complete)
        return response.status

    def is_up(self) -> bool:
        """Return whether B can use the connection that A opened. Both sides must agree."""
        up = self.a.connector("b").is_up
        self.assertEqual(up, self.b.external("friend").has_way)
        return up


class StartTests(SynchronousTestCase):
    """The order: credentials, then the listener, then the connectors."""

    def setUp(self) -> None:
        self.federation = Federation(self)
        self.b = self.federation.add(
            B, [external("friend", "b")], [user("alice", "friend", allow_external_usage=True)]
        )
        self.a = self.federation.add(
            A,
            [self.federation.account("a1"), external("b", "b", url=URL_OF_B, reverse=True)],
            [user("b", "a1")],
            start=False,
        )

    def test_in_steps(self) -> None:
        """A request over a reverse connection finds everything else ready."""
        entry = self.a.entry
        self.federation.settle()
        self.assertEqual(self.b.connections, [])
        entry.start()
        self.federation.settle()
        (account,) = entry.accounts.values()
        self.assertTrue(account.is_usable())
        self.assertFalse(self.a.connector("b").is_up)
        self.assertIsNone(entry.port)
        entry.listen()
        self.federation.settle()
        self.assertIsNotNone(entry.port)
        self.assertTrue(self.a.connector("b").is_up)
        self.assertEqual(self.b.answer().status, 200)
        self.stopped(entry.drain(1))
        self.stopped(entry.stop())

    def test_an_address_that_is_taken(self) -> None:
        """A service that cannot listen opens no reverse connections."""
        self.federation.network.listen("127.0.0.1", A, Factory())
        self.assertRaises(ListenFailed, self.a.service.startService)
        self.federation.pass_time(60, step=5)
        self.assertFalse(self.a.connector("b").is_up)
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.assertEqual(self.b.connections, [])

    def test_drained_without_having_listened(self) -> None:
        entry = self.a.entry
        entry.start()
        self.stopped(entry.drain(0))
        self.stopped(entry.stop())
        self.assertEqual(self.b.entry.receiver.sessions, set())

    def stopped(self, work: Any) -> None:
        """Run a step of the life cycle to its end."""
        done = Deferred.fromCoroutine(work)
        self.federation.pass_time(3)
        self.successResultOf(done)


class DrainTests(MultiplexerCase):
    """One side stops while the other goes on."""

    more = "shutdown_grace: 10s"

    def test_the_lender(self) -> None:
        """Requests over its connection finish; no new ones are accepted, and no connection is opened again."""
        self.assertTrue(self.is_up())
        client = self.b.ask(SLOW)
        stopped = self.stop(self.a)
        self.assertFalse(self.is_up())
        self.federation.pass_time(3)
        self.assertNoResult(stopped)
        self.federation.pass_time(3)
        self.assertEqual(self.status(client), 200)
        self.successResultOf(stopped)
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.assertNotEqual(self.b.answer().status, 200)
        self.federation.pass_time(120, step=5)
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.assertFalse(self.b.external("friend").is_usable())

    def test_the_lender_has_only_so_much_time(self) -> None:
        client = self.b.ask(HANG)
        stopped = self.stop(self.a)
        self.federation.pass_time(9)
        self.assertEqual(client.received, b"")
        self.assertNoResult(stopped)
        self.federation.pass_time(5)
        self.successResultOf(stopped)
        # Nobody else could serve it, and there is no other way to the lender (spec 4.2, 7.4).
        self.assertEqual(self.status(client), 400)
        self.assertIn("reverse connection not established", client.responses()[-1].error["message"])
        self.assertEqual(self.b.entry.receiver.sessions, set())

    def test_the_borrower(self) -> None:
        """Its clients get their answers; then the connection is closed, and the lender goes on."""
        client = self.b.ask(SLOW)
        stopped = self.stop(self.b)
        self.federation.pass_time(3)
        self.assertNoResult(stopped)
        self.federation.pass_time(3)
        self.assertEqual(self.status(client), 200)
        self.successResultOf(stopped)
        self.assertFalse(self.a.connector("b").is_up)
        self.assertEqual(self.a.entry.forwarder.registry.exchanges, set())
        self.assertEqual(self.a.answer(user="b").status, 200)

    def test_the_borrower_has_only_so_much_time(self) -> None:
        client = self.b.ask(HANG)
        stopped = self.stop(self.b)
        self.federation.pass_time(9)
        self.assertFalse(client.broken)
        self.federation.pass_time(5)
        self.assertTrue(client.broken)
        self.successResultOf(stopped)
        self.assertEqual(self.a.entry.forwarder.registry.exchanges, set())

    def test_the_lender_dials_until_the_borrower_is_back(self) -> None:
        self.successResultOf(self.stop(self.b))
        self.federation.pass_time(20)
        self.assertFalse(self.a.connector("b").is_up)
        self.b = self.add_b()
        self.federation.pass_time(46)
        self.assertTrue(self.is_up())
        self.assertEqual(self.b.answer().status, 200)

    def test_both_at_once(self) -> None:
        client = self.b.ask(SLOW)
        stopped = [self.stop(self.a), self.stop(self.b)]
        self.federation.pass_time(6)
        self.assertEqual(self.status(client), 200)
        for each in stopped:
            self.successResultOf(each)

    def test_no_handshake_is_accepted_any_more(self) -> None:
        """This holds also on a connection that is still open."""
        handshake = (
            b"GET /ccm/v1/reverse HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: reverse-proxy\r\n"
            b"Authorization: Bearer b-token-4711\r\n\r\n"
        )
        self.b.entry.routes.closing = True
        response = self.b.send(handshake).responses()[0]
        self.assertEqual((response.status, response.header("x-ccm-error")), (503, "shutting_down"))
        self.assertEqual(len(self.b.entry.receiver.sessions), 1)

    def test_as_soon_as_it_is_started(self) -> None:
        """The connections are still being opened."""
        self.successResultOf(self.stop(self.a))
        self.a = self.add_a(start=False)
        self.a.service.startService()
        self.successResultOf(self.stop(self.a))
        self.federation.pass_time(60, step=5)
        self.assertFalse(self.a.connector("b").is_up)
        self.assertEqual(self.b.entry.receiver.sessions, set())


class ReloadTests(MultiplexerCase):
    """Remotes that are added, removed and kept."""

    def test_the_same_ones_stay(self) -> None:
        """Connections and state are kept: another user does not affect them."""
        friend, connector = self.b.external("friend"), self.a.connector("b")
        (session,) = self.b.entry.receiver.sessions
        client = self.b.ask(SLOW)
        for instance in (self.a, self.b):
            self.replaced(instance, "    users:\n", f"    users:\n      - {user('carol', tag(instance))}\n")
        self.assertIs(self.b.external("friend"), friend)
        self.assertIs(self.a.connector("b"), connector)
        self.assertEqual(self.b.entry.receiver.sessions, {session})
        self.federation.pass_time(5)
        self.assertEqual(self.status(client), 200)

    def test_another_weight(self) -> None:
        friend = self.b.external("friend")
        self.assertEqual(friend.state.plan_weight, 10)
        self.replaced(self.b, "type: external", "type: external, plan_weight: 33")
        self.assertIs(self.b.external("friend"), friend)
        self.assertEqual(friend.state.plan_weight, 33)
        self.assertTrue(self.is_up())
        self.replaced(self.b, ", plan_weight: 33", "")
        self.assertEqual(friend.state.plan_weight, 10)

    def test_a_connector_goes(self) -> None:
        """Its requests finish; the connection is closed, and not opened again."""
        connector = self.a.connector("b")
        self.assertTrue(connector.is_up)
        client = self.b.ask(SLOW)
        line = f"      - {external('b', 'b', url=URL_OF_B, reverse=True)}\n"
        self.replaced(self.a, line, "")
        self.assertEqual(self.a.entry.externals, {})
        self.assertEqual(len(self.b.entry.receiver.sessions), 1)
        self.federation.pass_time(5)
        self.assertEqual(self.status(client), 200)
        self.assertFalse(self.b.external("friend").has_way)
        self.federation.pass_time(RETIRED_GRACE)
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.assertFalse(self.b.external("friend").is_usable())
        self.federation.pass_time(100, step=5)
        self.assertFalse(connector.is_up)
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.replaced(self.a, "    users:\n", f"{line}    users:\n")
        self.assertTrue(self.is_up())
        self.assertEqual(self.b.answer().status, 200)

    def test_what_a_connector_that_goes_serves_is_cut_in_the_end(self) -> None:
        client = self.b.ask(HANG)
        line = f"      - {external('b', 'b', url=URL_OF_B, reverse=True)}\n"
        self.replaced(self.a, line, "")
        self.federation.pass_time(RETIRED_GRACE - 1)
        self.assertEqual(client.received, b"")
        self.federation.pass_time(3)
        self.assertNotEqual(self.status(client), 200)

    def test_a_receiver_goes(self) -> None:
        """Its connection is closed, and the next handshake of its remote is refused."""
        more = self.federation.account("b1")
        old = f"      - {external('friend', 'b')}\n"
        friend = self.b.external("friend")
        self.b.text = self.b.text.replace(old, f"      - {more}\n").replace("friend", "b1")
        self.b.reload(self.b.text)
        self.federation.settle()
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.assertFalse(friend.has_way)
        self.assertFalse(self.a.connector("b").is_up)
        self.federation.pass_time(3)
        self.assertEqual(len(self.federation.lines("refused with 401")), 1)
        self.assertEqual(self.b.answer().status, 200)

    def test_another_token(self) -> None:
        """It counts as another remote: the connection that was opened with the old token is closed."""
        friend = self.b.external("friend")
        self.replaced(self.b, "b-token-4711", "c-token-4711")
        self.assertIsNot(self.b.external("friend"), friend)
        self.assertFalse(self.a.connector("b").is_up)
        self.assertFalse(self.b.external("friend").has_way)
        self.assertEqual(self.b.entry.receiver.sessions, set())

    def test_another_url(self) -> None:
        """Connections go to the new remote, and no longer to the old one."""
        c = self.federation.add(
            8083, [external("friend", "b")], [user("alice", "friend", allow_external_usage=True)]
        )
        self.replaced(self.a, URL_OF_B, "http://127.0.0.1:8083")
        self.federation.pass_time(3)
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.assertEqual(len(c.entry.receiver.sessions), 1)
        self.assertEqual(c.answer().status, 200)
        self.federation.pass_time(60, step=5)
        self.assertEqual(self.b.entry.receiver.sessions, set())

    def test_a_remote_by_its_url(self) -> None:
        """The remote is added and removed again."""
        by_url = external("friend", "b", url=URL_OF_A)
        self.replaced(self.b, external("friend", "b"), by_url)
        self.assertEqual(self.b.answer().status, 200)
        friend = self.b.external("friend")
        self.replaced(self.b, by_url, external("friend", "b"))
        self.assertIsNot(self.b.external("friend"), friend)
        self.federation.pass_time(60)
        self.assertTrue(self.is_up())

    def test_another_upstream(self) -> None:
        """Everything is built anew, with another outbound and other time-outs."""
        friend = self.b.external("friend")
        self.replaced(self.b, "    upstream: {", '    upstream: {"idle_timeout": 77s, ')
        self.assertIsNot(self.b.external("friend"), friend)
        self.federation.pass_time(5)
        self.assertTrue(self.is_up())

    def test_many_times(self) -> None:
        """Nothing accumulates."""
        for weight in range(1, 30):
            instance = self.b if weight % 2 else self.a
            self.replaced(
                instance, "type: external" if weight < 3 else f"plan_weight: {weight - 2}", f"{tail(weight)}"
            )
        self.assertTrue(self.is_up())
        self.assertEqual(len(self.b.entry.receiver.sessions), 1)
        self.assertLess(len(self.federation.clock.getDelayedCalls()), 40)
        self.assertEqual(self.b.answer().status, 200)


class EndTests(MultiplexerCase):
    """The end of a credential that is no longer configured."""

    def test_a_remote(self) -> None:
        (remote,) = self.a.entry.externals.values()
        client = self.b.ask(SLOW)
        done = Deferred.fromCoroutine(end(remote))
        self.federation.pass_time(5)
        self.assertEqual(self.status(client), 200)
        # The remote may keep unused streams open, which are given no more time than the rest.
        self.federation.pass_time(RETIRED_GRACE)
        self.successResultOf(done)
        self.assertFalse(self.is_up())

    def test_without_grace(self) -> None:
        (remote,) = self.a.entry.externals.values()
        client = self.b.ask(HANG)
        done = Deferred.fromCoroutine(end(remote, 0))
        self.federation.settle()
        self.successResultOf(done)
        self.assertNotEqual(self.status(client), 200)

    def test_an_account(self) -> None:
        """Its requests in flight finish."""
        (account,) = self.a.entry.accounts.values()
        client = self.b.ask(SLOW)
        done = Deferred.fromCoroutine(end(account))
        self.federation.settle()
        self.successResultOf(done)
        self.federation.pass_time(5)
        self.assertEqual(self.status(client), 200)


class InterfaceTests(MultiplexerCase):
    """The machine's network has changed (spec 7.4)."""

    def test_who_dials_dials_anew(self) -> None:
        (session,) = self.b.entry.receiver.sessions
        self.a.entry.interface_updated(NetworkChange.DEFAULT_ROUTE)
        self.federation.settle()
        self.assertTrue(self.is_up())
        self.assertNotIn(session, self.b.entry.receiver.sessions)
        self.assertEqual(len(self.b.entry.receiver.sessions), 1)
        self.assertEqual(self.b.answer().status, 200)

    def test_who_is_dialled_waits(self) -> None:
        sessions = set(self.b.entry.receiver.sessions)
        self.b.entry.interface_updated(NetworkChange.DEFAULT_ROUTE)
        self.federation.settle()
        self.assertEqual(self.b.entry.receiver.sessions, sessions)


def tag(instance: Instance) -> str:
    """Return the status of the credential that a user of the instance has."""
    return "a1" if instance.port == A else "friend, allow_external_usage: true"


def tail(weight: int) -> str:
    """Return the options of an external with this weight."""
    return f"type: external, plan_weight: {weight}" if weight < 3 else f"plan_weight: {weight}"
