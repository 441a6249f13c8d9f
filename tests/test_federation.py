"""Instances that lend each other capacity, from a client's bytes to the upstream's (spec 7)."""

from __future__ import annotations

import json

from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.remote import RemoteStatus
from ccmproxy.http.headers import MOST_HOPS
from ccmproxy.http.message import first_value, values
from ccmproxy.interfaces.network import NetworkChange
from ccmproxy.reverse import StreamClientEndpoint, YamuxProtocol
from ccmproxy.reverse.replacing import REPLACED_ANSWER
from ccmproxy.simulator.steps import Pace
from ccmproxy.state.limits import LimitsUpdate
from ccmproxy.testing.pump import Pump
from tests.conversation import Client, message_request
from tests.federated import TOKENS, Federation, Instance, external, user
from tests.interop.scripted import Answer, ScriptedSimulator
from tests.proxy.test_codex import request as codex_request
from tests.proxy.websocket.scene import ClientSocket, event, upgrade_request

A, B, C = 8081, 8082, 8083
URL_A, URL_B, URL_C = (f"http://127.0.0.1:{port}" for port in (A, B, C))


def states(instance: Instance, tag: str) -> tuple[str, str]:
    """State and reason of a remote, as its neighbour knows it."""
    found = instance.external(tag)._availability()
    return found.state, found.reason


class NormalTests(SynchronousTestCase):
    """B borrows from A, whom it can dial: A is what B has a URL of, B is a user of A."""

    def setUp(self) -> None:
        self.federation = federation = Federation(self)
        self.a = federation.add(A, [federation.account("a1")], [user("b", "a1"), user("carol", "a1")])
        self.b = federation.add(
            B,
            [
                federation.account("b1", "pro"),
                external("friend", "b", url=URL_A),
                "{tag: both, type: balancer, credentials: [b1, friend], strategy: fallback}",
            ],
            [
                user("alice", "friend", allow_external_usage=True),
                user("bob", "both", allow_external_usage=True),
                user("carol", "both"),
            ],
            more="    headers: {X-App: ours}",
        )

    def test_a_turn(self) -> None:
        response = self.b.answer("[[say:lent]]")
        self.assertEqual(response.status, 200)
        self.assertEqual(response.json()["content"][0]["text"], "lent")
        self.assertEqual(self.federation.served_by(), "a1")

    def test_a_stream(self) -> None:
        response = self.b.answer("[[tokens:50]]", stream=True)
        self.assertTrue(response.body.startswith(b"event: message_start"))
        self.assertIn(b"event: message_stop", response.body)

    def test_what_the_upstream_sees(self) -> None:
        """Path, query and body as the client sent them; nothing of us, nothing of B's own headers."""
        self.b.answer(path="/v1/messages?beta=true&x=%41", headers=(("X-App", "cli"),))
        turn = self.federation.turns()[-1]
        self.assertEqual(turn.target, b"/v1/messages?beta=true&x=%41")
        self.assertEqual(values(turn.headers, b"x-app"), [b"cli"])
        self.assertEqual(values(turn.headers, b"x-ccm-hops"), [])
        for token in TOKENS.values():
            self.assertFalse(token.encode() in repr(turn.headers).encode(), "a token of ours passed")

    def test_the_answer_tells_of_one_request_and_one_pool(self) -> None:
        """B's own request id and B's aggregate, once each."""
        response = self.b.answer()
        for name in (b"x-ccm-request-id", b"x-ccm-plan-weight", b"anthropic-ratelimit-unified-status"):
            self.assertEqual(len(values(response.headers, name)), 1, name)

    def test_who_may_not_use_externals_never_does(self) -> None:
        """Spec 6.6: not even when everything else is used up."""
        self.federation.logins["b1"].exhaust("five_hour", 3600.0)
        self.assertEqual(self.b.answer(user="carol").status, 429)
        self.assertEqual(self.b.answer(user="bob").status, 200)
        self.assertEqual(self.federation.served_by(), "a1")

    def test_the_state_comes_with_the_stream(self) -> None:
        """Spec 5.5, 7.5: at once, and at every change."""
        friend = self.b.external("friend")
        self.assertTrue(friend.state.ever_had_data)
        self.assertEqual(friend.state.plan_weight, 10)
        self.federation.logins["a1"].set_utilization("seven_day", 40.0, 86400.0)
        self.a.answer(user="carol")
        self.federation.settle()
        self.assertAlmostEqual(friend.state.limits.weekly.utilization or 0, 41.0, delta=1)
        self.assertTrue(any("friend: " in line for line in self.federation.lines("weekly window 41 %")))

    def test_the_remote_is_used_up(self) -> None:
        """B knows at once, and takes another; when A has room again, B knows that too."""
        login = self.federation.logins["a1"]
        login.exhaust("five_hour", 600.0)
        self.assertEqual(self.b.answer().status, 429)
        self.federation.settle()
        self.assertEqual(states(self.b, "friend")[0], "rate_limited")
        self.federation.pass_time(602, 30)
        self.assertEqual(self.b.answer().status, 200)

    def test_the_remote_cannot_refresh_for_some_time(self) -> None:
        """That is no rate limit: the remote serves while its token lasts, and then says itself when to come back."""
        login = self.federation.logins["a1"]
        login.expire_access_token()
        self.federation.simulator.faults.always("rate_limited;retry_after=120", endpoint="token")
        self.a.answer(user="carol")
        self.federation.pass_time(10, 1)
        self.assertNotEqual(states(self.b, "friend")[0], "rate_limited")
        response = self.b.answer()
        self.assertEqual((response.status, response.header("x-ccm-error")), (503, "credential_delayed"))
        self.assertNotEqual(states(self.b, "friend")[0], "rate_limited")

    def test_a_reset_is_told_as_it_is(self) -> None:
        self.federation.logins["a1"].exhaust("five_hour", 7200.0)
        response = self.b.answer()
        self.assertIn("earliest reset in 2h", response.error["message"])

    def test_the_remote_loses_its_account(self) -> None:
        """The remote says with a 400 that it has no account: it is left alone, and others serve (spec 4.4).

        A client that only the remote could serve is told why in the remote's words, which name what to do (spec 12.3).
        """
        login = self.federation.logins["b1"]
        login.exhaust("five_hour", 60.0)
        self.assertEqual(self.b.answer(user="bob").status, 200)
        self.assertEqual(self.federation.served_by(), "a1")
        self.federation.logins["a1"].log_out()
        response = self.b.answer(user="alice")
        self.assertEqual((response.status, response.error["type"]), (400, "invalid_request_error"))
        self.assertEqual(response.header("x-ccm-error"), "credential_unavailable")
        self.assertIn("log in again", response.error["message"])
        self.federation.settle()
        self.assertEqual(states(self.b, "friend"), ("temporarily_blocked", "rejected"))
        self.assertIn("log in again", self.b.answer(user="alice").error["message"])
        self.federation.pass_time(61, 5)
        self.assertEqual(self.b.answer(user="bob").status, 200)
        self.assertEqual(self.federation.served_by(), "b1")

    def test_a_400_of_the_upstream_is_the_clients(self) -> None:
        self.federation.simulator.faults.next("too_long")
        self.assertEqual(self.b.answer().status, 400)
        self.assertEqual(states(self.b, "friend")[0], "usable")
        self.assertEqual(self.b.answer().status, 200)

    def test_fast_mode_is_refused(self) -> None:
        headers = (("anthropic-beta", "fast-mode-2026-02-01"),)
        self.assertEqual(self.b.answer(headers=headers).status, 400)

    def test_the_remote_stops(self) -> None:
        """Its streams end in order, and are asked for again when it is back."""
        stopped = self.a.service.stopService()
        self.federation.pass_time(35)
        self.successResultOf(stopped)
        response = self.b.answer()
        self.assertEqual((response.status, response.header("x-ccm-error")), (502, "upstream_unreachable"))
        self.assertEqual(self.b.answer(user="bob").status, 200)
        again = Instance(self.federation, A, self.a.text)
        self.federation.instances.append(again)
        again.service.startService()
        self.federation.pass_time(60)
        self.assertEqual(self.b.answer().status, 200)
        self.assertEqual(states(self.b, "friend")[0], "usable")

    def test_a_token_that_is_not_known_there(self) -> None:
        """The remote is left alone, and the client is told that it is not its own token."""
        self.a.reload(self.a.text.replace(TOKENS["b"], TOKENS["wrong"]))
        response = self.b.answer()
        self.assertNotIn(response.status, (200, 401))
        self.assertEqual(self.b.answer(user="bob").status, 200)

    def test_who_lends_is_not_told_of_its_own(self) -> None:
        """A is a user of B as well, and borrows there: what B says of itself to A leaves out what A lends to B."""
        text = self.b.text.replace(
            "    upstream:",
            f"      - {user('a', 'both', allow_external_usage=True, external_credential='friend')}\n    upstream:",
        )
        self.b.reload(text)
        told = self.b.get("/ccm/v1/status", "a").json()
        self.assertEqual(told["plan_weight"], 1)
        self.assertEqual(self.b.get("/ccm/v1/status", "bob").json()["plan_weight"], 11)


class ToldInstanceTests(SynchronousTestCase):
    """What a 429 shows for instances of another make does not mislead one of ours (spec 14)."""

    def test_a_burst(self) -> None:
        """B's knowledge of A stays as it is, and B's client sees nothing of it."""
        federation = Federation(self)
        a = federation.add(A, [federation.account("a1")], [user("b", "a1"), user("carol", "a1")])
        federation.logins["a1"].set_utilization("five_hour", 40.0, 7200.0)
        a.answer(user="carol")
        b = federation.add(
            B, [external("friend", "b", url=URL_A)], [user("alice", "friend", allow_external_usage=True)]
        )
        friend = b.external("friend")
        before = friend.state.limits
        for fault in ("rate_limited", "rate_limited;retry_after=7"):
            federation.simulator.faults.next(fault)
            response = b.answer()
            self.assertEqual(response.status, 429)
            shown = [name for name, _ in response.headers if name.lower().startswith(b"anthropic-ratelimit")]
            self.assertEqual(shown, [])
            federation.settle()
            self.assertEqual(friend.state.limits, before)
            self.assertTrue(friend.is_usable())

    def test_a_burst_for_codex(self) -> None:
        """The reset that is told is of a moment: it is no reset of an account."""
        federation = Federation(self, "ocm")
        federation.add(A, [federation.codex_account("a1")], [user("b", "a1")])
        b = federation.add(
            B, [external("friend", "b", url=URL_A)], [user("alice", "friend", allow_external_usage=True)]
        )
        federation.simulator.faults.always("rate_limited")
        for _ in range(2):
            client = b.send(codex_request("hello"))
            self.assertEqual(client.responses()[0].status, 429)
            self.assertIsNone(client.responses()[0].header("x-codex-primary-reset-at"))
            self.assertEqual(b.external("friend").state.rate_limited_until, 0)

    def test_whoever_asks_over_a_reverse_connection(self) -> None:
        """Only instances do, also one of another make, which sends no hop header."""
        federation = Federation(self)
        a = federation.add(A, [federation.account("a1")], [user("b", "a1")])
        federation.logins["a1"].exhaust("five_hour", 7200.0)
        listener = federation.network.listeners["127.0.0.1", A]
        theirs = YamuxProtocol(federation.clock, True)
        ours = YamuxProtocol(federation.clock, False, listener.factory)
        pump = Pump(theirs, ours)
        client = Client()
        StreamClientEndpoint(theirs).connect(Factory.forProtocol(lambda: client))
        pump.flush()
        assert client.transport is not None
        client.transport.write(message_request(token=TOKENS["b"]))
        for _ in range(5):
            pump.flush()
            federation.settle()
        (response,) = client.responses()
        self.assertEqual(response.header("anthropic-ratelimit-unified-representative-claim"), "5h")
        self.assertIsNone(a.answer(user="b").header("anthropic-ratelimit-unified-representative-claim"))
        pump.server.abortConnection()
        pump.client.abortConnection()
        pump.flush()


class KeyTests(SynchronousTestCase):
    """A lends a key of the commercial API, which has no windows that A could tell of."""

    def test_it_is_usable(self) -> None:
        federation = Federation(self)
        key = federation.simulator.add_api_key("k")
        federation.add(A, [f"{{tag: k, api_key: {key.key}}}"], [user("b", "k")])
        friend = external("friend", "b", url=URL_A)
        b = federation.add(B, [friend], [user("alice", "friend", allow_external_usage=True)])
        for _ in range(2):  # also after what the first answer's headers say
            self.assertEqual(b.answer().status, 200)
        self.assertEqual(federation.turns()[-1].account, "k")
        self.assertEqual(states(b, "friend")[0], "usable")


class PrefixTests(SynchronousTestCase):
    """A URL with a path, as behind a reverse proxy that takes it off."""

    def test_the_prefix_is_put_before_everything(self) -> None:
        federation = Federation(self)
        seen: list[bytes] = []
        from ccmproxy.http.message import ResponseHead
        from ccmproxy.http.server.factory import HTTPServerFactory, ServerRequest

        def answer(request: ServerRequest) -> None:
            seen.append(request.head.target)
            request.receive_body(
                1 << 20,
                lambda body: request.respond(ResponseHead(404, b"Not Found", []), b""),
                lambda error: None,
            )

        factory = HTTPServerFactory(answer, federation.clock)
        federation.network.listen("127.0.0.1", 9999, factory)
        b = federation.add(
            B,
            [
                external("friend", "b", url="http://127.0.0.1:9999/team/a/"),
                external("served", "c", url="http://127.0.0.1:9999/x", reverse=True),
            ],
            [user("alice", "friend", allow_external_usage=True)],
        )
        b.answer(path="/v1/messages?beta=true")
        self.assertEqual(
            set(seen),
            {
                b"/team/a/ccm/v1/status",
                b"/team/a/ccm/v1/status?watch=true",
                b"/team/a/v1/messages?beta=true",
                b"/x/ccm/v1/reverse",
            },
        )


class IPv6Tests(SynchronousTestCase):
    """The other instance is at an IPv6 address: turns, polls and its stream of states."""

    def test_direct(self) -> None:
        federation = Federation(self)
        federation.add(A, [federation.account("a1")], [user("b", "a1")])
        listeners = federation.network.listeners
        listeners["::1", A] = listeners["127.0.0.1", A]
        b = federation.add(
            B,
            [external("friend", "b", url=f"'http://[::1]:{A}'")],
            [user("alice", "friend", allow_external_usage=True)],
        )
        response = b.answer("[[say:lent]]")
        self.assertEqual(response.status, 200, response.body)
        self.assertEqual(federation.served_by(), "a1")
        friend = b.external("friend")
        self.assertTrue(friend.state.ever_had_data)
        friend._poller.poll()
        federation.settle()
        self.assertEqual(friend._poller.failures, 0)


class ReverseTests(SynchronousTestCase):
    """B borrows from A, which cannot be dialled: A dials B, and serves it over that."""

    url: str | None = None

    def setUp(self) -> None:
        self.federation = federation = Federation(self)
        options = {} if self.url is None else {"url": self.url}
        self.b = federation.add(
            B,
            [
                federation.account("b1", "pro"),
                external("friend", "b", **options),
                "{tag: both, type: balancer, credentials: [friend, b1], strategy: fallback}",
            ],
            [
                user("alice", "friend", allow_external_usage=True),
                user("bob", "both", allow_external_usage=True),
            ],
        )
        self.a = federation.add(
            A,
            [federation.account("a1"), external("b", "b", url=URL_B, reverse=True)],
            [user("b", "a1"), user("carol", "a1")],
        )

    def carrier(self) -> Client:
        """B's end of A's connection."""
        (session,) = self.b.entry.receiver.sessions
        return session  # type: ignore[return-value]

    def cut(self) -> None:
        """The connection between them breaks."""
        (session,) = self.b.entry.receiver.sessions
        session.transport.abortConnection()
        self.federation.settle()


class ReceiverTests(ReverseTests):
    """B has no URL of A: the connection is the only way."""

    def test_a_turn(self) -> None:
        response = self.b.answer("[[say:lent]]")
        self.assertEqual(response.status, 200, response.body)
        self.assertEqual(response.json()["content"][0]["text"], "lent")
        self.assertEqual(self.federation.served_by(), "a1")

    def test_who_only_lends_does_not_ask(self) -> None:
        """The lender is no user of the borrower: it would be refused again and again, for nothing."""
        self.assertEqual(self.federation.lines("refused: "), [])
        self.assertEqual(self.federation.lines("usage poll failed"), [])
        wanting = self.a.text.replace(
            "    users:\n", f"    users:\n      - {user('alice', 'b', allow_external_usage=True)}\n"
        )
        self.a.reload(wanting)
        self.federation.pass_time(2)
        self.assertNotEqual(self.federation.lines("usage poll failed"), [])

    def test_the_users_of_the_lender_are_users_there_too(self) -> None:
        """What comes in on the connection is authenticated as on a listening port."""
        self.a.reload(
            self.a.text.replace(f"{{name: b, token: {TOKENS['b']}", f"{{name: b, token: {TOKENS['wrong']}")
        )
        self.assertNotEqual(self.b.answer().status, 200)

    def test_state_comes_over_it(self) -> None:
        friend = self.b.external("friend")
        self.assertEqual(friend.state.plan_weight, 10)
        self.federation.logins["a1"].set_utilization("seven_day", 40.0, 86400.0)
        self.a.answer(user="carol")
        self.federation.settle()
        self.assertAlmostEqual(friend.state.limits.weekly.utilization or 0, 41.0, delta=1)

    def test_before_it_is_there(self) -> None:
        """Unavailable, with the reason."""
        federation = self.federation
        c = federation.add(C, [external("late", "c")], [user("alice", "late", allow_external_usage=True)])
        response = c.answer()
        self.assertEqual((response.status, response.header("x-ccm-error")), (400, "credential_unavailable"))
        self.assertIn("reverse connection not established", response.error["message"])
        told = c.get("/ccm/v1/status").json()["availability"]
        self.assertEqual(told["state"], "unavailable")

    def test_lost_and_made_again(self) -> None:
        """After two seconds and up to half of that more, which both sides log."""
        self.cut()
        self.assertEqual(states(self.b, "friend"), ("unavailable", "unavailable"))
        self.assertEqual(self.b.answer().status, 400)
        self.assertEqual(self.b.answer(user="bob").status, 200)
        self.assertEqual(self.federation.served_by(), "b1")
        self.federation.pass_time(3.1)
        self.assertEqual(self.b.answer().status, 200)
        self.assertEqual(self.federation.served_by(), "a1")
        lost = self.federation.lines("no reverse connection")
        self.assertEqual(len(lost), 1)
        self.assertRegex(lost[0], r"again in [23]\.\d s")
        self.assertEqual(len(self.federation.lines("is down")), 1)

    def test_many_streams_at_once(self) -> None:
        """Each is whole, and none waits for another."""
        self.federation.simulator.pace = Pace(each=1.0)
        clients = [self.b.ask(f"[[say:{n}]]", stream=True, session=f"s{n}") for n in range(100)]
        self.federation.pass_time(12)
        for number, client in enumerate(clients):
            response = client.responses()[0]
            self.assertTrue(response.complete)
            self.assertIn(f'"text":"{number}"'.encode(), response.body.replace(b'": "', b'":"'))
        self.assertEqual(len(self.b.entry.receiver.sessions), 1)

    def test_a_client_that_reads_nothing_stops_its_own_stream_only(self) -> None:
        slow = self.b.send(b"")
        assert slow.transport is not None
        slow.transport.pauseProducing()
        self.b.send(message_request("[[tokens:200000]]", token=TOKENS["alice"], stream=True), slow)
        for _ in range(3):
            self.assertEqual(self.b.answer(stream=True).status, 200)
        (session,) = self.b.entry.receiver.sessions
        self.assertLess(session.session.unread, 1024 * 1024)
        slow.transport.resumeProducing()
        self.federation.settle()
        self.assertIn(b"message_stop", slow.responses()[0].body)

    def test_in_flight_when_the_tunnel_dies(self) -> None:
        """Before a byte of the answer: another one serves, where there is one."""
        self.federation.simulator.faults.next("hang", times=2)
        alone, pooled = self.b.ask(user="alice"), self.b.ask(user="bob")
        self.assertEqual((alone.received, pooled.received), (b"", b""))
        self.cut()
        self.assertEqual(pooled.responses()[0].status, 200)
        self.assertEqual(self.federation.served_by(), "b1")
        self.assertNotEqual(alone.responses()[0].status, 200)
        self.assertTrue(alone.responses()[0].complete)

    def test_in_mid_stream_when_the_tunnel_dies(self) -> None:
        """The client sees a break, never a clean end; and A lets the upstream go."""
        self.federation.simulator.faults.next("stall;at=mid;seconds=0")
        client = self.b.ask(user="bob", stream=True)
        self.assertTrue(client.received.startswith(b"HTTP/1.1 200"))
        self.cut()
        self.assertTrue(client.broken)
        self.assertFalse(client.responses()[0].complete)
        self.assertEqual(self.a.entry.forwarder.registry.exchanges, set())
        self.assertEqual(self.federation.simulator.concurrent, 0)

    def streaming(self) -> Client:
        """A client in the middle of its stream, which goes on after 200 s."""
        self.federation.simulator.faults.next("stall;at=mid;seconds=200")
        client = self.b.ask(user="bob", stream=True)
        self.assertTrue(client.received.startswith(b"HTTP/1.1 200"))
        self.assertFalse(client.responses()[0].complete)
        return client

    def test_in_mid_stream_when_containers_come_and_go(self) -> None:
        """Nothing is cut, and nothing is dialled (spec 14, F68)."""
        client = self.streaming()
        sessions = set(self.b.entry.receiver.sessions)
        for _ in range(20):
            self.a.service.interfaceUpdated(NetworkChange.OTHER)
            self.federation.pass_time(5)
        self.assertEqual(self.b.entry.receiver.sessions, sessions)
        self.federation.pass_time(110)
        self.assertIn(b"message_stop", client.responses()[0].body)

    def test_in_mid_stream_when_the_default_route_changes(self) -> None:
        """The stream goes on where it is, to its end; what is new goes over the new connection."""
        client = self.streaming()
        (old,) = self.b.entry.receiver.sessions
        self.a.service.interfaceUpdated(NetworkChange.DEFAULT_ROUTE)
        self.federation.settle()
        (new,) = self.b.entry.receiver.sessions - {old}
        self.assertEqual(self.b.answer(user="bob").status, 200)
        self.assertEqual(self.federation.served_by(), "a1")
        self.assertEqual(old.session.streams, 1)
        self.federation.pass_time(210)
        self.assertIn(b"message_stop", client.responses()[0].body)
        self.assertEqual(self.b.entry.receiver.sessions, {new})

    def test_in_mid_stream_when_its_own_address_goes(self) -> None:
        """There is no way back to it, so that nobody waits for a time-out."""
        client = self.streaming()
        self.a.lost_addresses.add("127.0.0.1")
        self.a.service.interfaceUpdated(NetworkChange.OTHER)
        self.federation.settle()
        self.assertTrue(client.broken)
        self.a.lost_addresses.clear()
        self.assertEqual(self.b.answer(user="bob").status, 200)

    def test_a_client_that_leaves(self) -> None:
        """Is noticed at the far end."""
        self.federation.simulator.faults.next("hang")
        client = self.b.ask()
        self.assertEqual(len(self.a.entry.forwarder.registry.exchanges), 1)
        assert client.transport is not None
        client.transport.loseConnection()
        self.federation.settle()
        self.assertEqual(self.a.entry.forwarder.registry.exchanges, set())

    def test_the_newest_wins(self) -> None:
        """And the one before is closed, when what is in flight on it has ended."""
        (first,) = self.b.entry.receiver.sessions
        self.federation.simulator.faults.next("slow;seconds=3")
        client = self.b.ask()
        second_a = self.federation.add(
            C,
            [self.federation.account("c1"), external("b", "b", url=URL_B, reverse=True)],
            [user("b", "c1")],
        )
        self.assertTrue(second_a.connector("b").is_up)
        self.assertFalse(first.is_usable)
        self.assertEqual(self.b.answer().status, 200)
        self.assertEqual(self.federation.served_by(), "c1")
        self.federation.pass_time(4)
        self.assertEqual(client.responses()[0].status, 200)

    def test_a_silent_peer_is_found_out(self) -> None:
        """F35: half-open, as after a NAT's time-out; 15 s to the ping and 10 s for its answer."""
        (pump,) = [p for p in self.b.connections if p.server._protocol is not None and self.is_carrier(p)]
        pump.client.held = pump.server.held = True
        self.federation.pass_time(27)
        self.assertEqual(states(self.b, "friend")[0], "unavailable")
        self.assertFalse(self.b.entry.receiver.sessions)
        self.federation.pass_time(5)
        self.assertEqual(self.b.answer().status, 200)

    def test_a_new_connection_in_place_of_a_dead_one(self) -> None:
        """A has another address, and nobody answers at the old one any more: what waits there soon goes on."""
        (pump,) = [p for p in self.b.connections if p.server._protocol is not None and self.is_carrier(p)]
        pump.client.held = pump.server.held = True
        client = self.b.ask("[[say:moved]]")
        self.a.service.interfaceUpdated()
        self.federation.settle()
        self.assertEqual(len(self.b.entry.receiver.sessions), 2)
        self.assertEqual(client.responses(), [])
        self.federation.pass_time(REPLACED_ANSWER)
        self.assertEqual(client.responses()[0].status, 200)
        self.assertEqual(len(self.b.entry.receiver.sessions), 1)

    def is_carrier(self, pump: object) -> bool:
        sessions = self.b.entry.receiver.sessions
        return any(session.transport is pump.server for session in sessions)  # type: ignore[attr-defined]

    def test_the_network_changes(self) -> None:
        """Dropped and dialled anew, at once."""
        (before,) = self.b.entry.receiver.sessions
        self.a.service.interfaceUpdated()
        self.federation.settle()
        (after,) = self.b.entry.receiver.sessions
        self.assertIsNot(after, before)
        self.assertEqual(self.b.answer().status, 200)
        self.assertEqual(len(self.federation.lines("network changed")), 1)

    def test_the_lender_stops(self) -> None:
        """With a go-away: what it serves goes on to its end, nothing new comes, and nothing is dialled again."""
        self.federation.simulator.faults.next("slow;seconds=5")
        client = self.b.ask()
        stopped = self.a.service.stopService()
        self.federation.settle()
        self.assertEqual(self.b.answer(user="bob").status, 200)
        self.assertEqual(self.federation.served_by(), "b1")
        self.federation.pass_time(6)
        self.assertEqual(client.responses()[0].status, 200)
        self.successResultOf(stopped)
        self.federation.pass_time(60)
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.assertEqual(states(self.b, "friend")[0], "unavailable")

    def test_the_borrower_stops(self) -> None:
        """Likewise; and the lender goes on asking for it."""
        self.federation.simulator.faults.next("slow;seconds=5")
        client = self.b.ask()
        stopped = self.b.service.stopService()
        self.federation.settle()
        self.assertNoResult(stopped)
        self.federation.pass_time(6)
        self.assertEqual(client.responses()[0].status, 200)
        self.successResultOf(stopped)
        self.assertFalse(self.a.connector("b").is_up)
        again = Instance(self.federation, B, self.b.text)
        self.federation.instances.append(again)
        again.service.startService()
        self.federation.pass_time(60)
        self.assertEqual(again.answer().status, 200)

    def test_a_lender_that_leaves_is_not_held_up(self) -> None:
        """By connections that nobody uses: it is gone at once, and not after a grace time."""
        self.assertEqual(self.b.answer().status, 200)
        entry = f"      - {external('b', 'b', url=URL_B, reverse=True)}\n"
        self.a.reload(self.a.text.replace(entry, ""))
        self.federation.settle()
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.assertEqual(states(self.b, "friend")[0], "unavailable")

    def test_a_reload_keeps_it(self) -> None:
        (before,) = self.b.entry.receiver.sessions
        self.b.reload(self.b.text + "log: {level: info}\n")
        self.a.reload(self.a.text + "log: {level: info}\n")
        self.federation.settle()
        self.assertEqual(self.b.entry.receiver.sessions, {before})
        self.assertEqual(self.b.answer().status, 200)

    def test_a_reload_takes_it_away(self) -> None:
        """On the lender's side: it closes the connection. On the borrower's: it lets no other one in."""
        entry = f"      - {external('b', 'b', url=URL_B, reverse=True)}\n"
        self.a.reload(self.a.text.replace(entry, ""))
        self.federation.pass_time(5)
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.a.reload(self.a.text)
        self.federation.settle()
        self.assertEqual(self.b.answer().status, 200)
        self.b.reload(self.b.text.replace(TOKENS["b"], TOKENS["wrong"]))
        self.federation.pass_time(15)
        self.assertEqual(self.b.entry.receiver.sessions, set())
        self.assertIn("refused with 401", self.federation.logged())


class EitherWayTests(ReverseTests):
    """B has a URL of A as well, and A has dialled B."""

    url = URL_A

    def test_the_connection_is_preferred(self) -> None:
        before = len(self.a.connections)
        self.assertEqual(self.b.answer().status, 200)
        self.assertEqual(len(self.a.connections), before)

    def test_the_url_is_the_fallback(self) -> None:
        """At once, also for what was in flight."""
        self.federation.simulator.faults.next("hang")
        client = self.b.ask()
        self.cut()
        self.assertEqual(client.responses()[0].status, 200)
        self.assertEqual(states(self.b, "friend")[0], "usable")
        self.assertEqual(self.b.answer().status, 200)
        self.assertEqual(self.federation.served_by(), "a1")


class WebSocketTests(SynchronousTestCase):
    """Codex's WebSocket, through another instance: over the reverse connection, and a second time by URL."""

    def setUp(self) -> None:
        self.federation = federation = Federation(self, "ocm")
        self.b = federation.add(
            B,
            [external("friend", "b")],
            [
                user("alice", "friend", allow_external_usage=True),
                user("c", "friend", allow_external_usage=True),
            ],
        )
        self.a = federation.add(
            A,
            [federation.codex_account("a1"), external("b", "b", url=URL_B, reverse=True)],
            [user("b", "a1")],
        )
        self.c = federation.add(
            C,
            [external("b", "c", url=URL_B)],
            [user("alice", "b", allow_external_usage=True)],
        )

    def open(self, instance: Instance) -> ClientSocket:
        """A WebSocket of alice at this instance."""
        return open_socket(self, self.federation, instance)

    def turn(self, client: ClientSocket, prompt: str) -> str:
        """Say something; the text of the answer."""
        client.say(turn_message(prompt))
        self.federation.settle()
        said = [json.loads(data) for data in client.without_limits()]
        self.assertEqual(said[-1]["type"], "response.completed", said[-1])
        return "".join(each["delta"] for each in said if each["type"] == "response.output_text.delta")

    def test_turns(self) -> None:
        for instance in (self.b, self.c):
            client = self.open(instance)
            self.assertIn("lent", self.turn(client, "[[say:lent]]"))
            self.assertTrue(client.limits())
            self.assertEqual(client.limits()[-1]["plan_weight"], 10)

    def test_users_come_and_go(self) -> None:
        """A reload ends the connections of those who are gone, routed elsewhere, or have another token, and of no one
        else."""
        alice, carol = (user(name, "friend", allow_external_usage=True) for name in ("alice", "c"))
        for changed, is_left in (
            (alice, False),
            (user("alice", "other", allow_external_usage=True), True),
            (alice.replace(TOKENS["alice"], "alice-token-new"), True),
            (carol, True),
        ):
            self.b.reload(self.b.text)
            client = self.open(self.b)
            self.turn(client, "[[say:lent]]")
            self.assertIn(alice, self.b.text)
            text = self.b.text
            if changed == carol:
                text = text.replace(f"      - {alice}\n", "")
            elif "other" in changed:
                text = text.replace("    users:", f"      - {external('other', 'a', url=URL_A)}\n    users:")
            self.b.reload(text.replace(alice, changed))
            self.federation.settle()
            self.assertEqual(client.code, 1012 if is_left else None, changed)

    def test_the_tunnel_dies(self) -> None:
        """The client's connection ends without a close, which it takes for a reason to connect again."""
        client = self.open(self.b)
        self.turn(client, "[[say:lent]]")
        (session,) = self.b.entry.receiver.sessions
        session.transport.abortConnection()
        self.federation.settle()
        self.assertIsNotNone(client.lost)
        self.assertIsNone(client.closed)
        self.federation.pass_time(4)
        self.assertIn("again", self.turn(self.open(self.b), "[[say:again]]"))

    def test_the_account_runs_out(self) -> None:
        """What A tells B's client reaches it, and B leaves A alone."""
        client = self.open(self.b)
        self.turn(client, "[[say:lent]]")
        (login,) = self.federation.simulator.codex.accounts
        login.exhaust("five_hour")
        client.say(turn_message("more"))
        self.federation.settle()
        self.assertEqual(states(self.b, "friend")[0], "rate_limited")


def open_socket(case: SynchronousTestCase, federation: Federation, instance: Instance) -> ClientSocket:
    """A WebSocket of alice at this instance, open until the end of the test."""
    client = ClientSocket(False)
    federation.network.endpoint("127.0.0.1", instance.port).connect(Factory.forProtocol(lambda: client))
    federation.settle()
    client.transport.write(upgrade_request(("Authorization", f"Bearer {TOKENS['alice']}")))
    federation.settle()
    case.assertEqual(client.status, 101, client.head + client.received)

    def leave() -> None:
        if client.lost is None:
            client.transport.abortConnection()
            federation.settle()

    case.addCleanup(leave)
    return client


def turn_message(prompt: str) -> bytes:
    """What a client says over a WebSocket to begin a turn."""
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": prompt}]}
    return event("response.create", model="gpt-5.4", stream=True, input=[item], tools=[], store=False)


class ModelNotAllowedTests(SynchronousTestCase):
    """A lender that lets a borrower use some models only: that is about the borrower's token (spec 9.6)."""

    def begin(self, kind: str, models: str, *members: str) -> tuple[Instance, Instance]:
        """A lends these models to B, which has a pool of A and of these accounts."""
        self.federation = federation = Federation(self, kind)
        account = federation.account if kind == "ccm" else federation.codex_account
        a = federation.add(A, [account("a1")], [user("b", "a1", models=models)])
        tags = ", ".join(("friend", *members))
        pool = f"{{tag: pool, type: balancer, credentials: [{tags}], strategy: fallback}}"
        b = federation.add(
            B,
            [external("friend", "b", url=URL_A), *map(account, members), pool],
            [user("alice", "pool", allow_external_usage=True)],
        )
        return a, b

    def test_the_next_member_serves(self) -> None:
        """Nothing is remembered: the lender is asked again for the same model, and serves others."""
        _, b = self.begin("ccm", "claude-sonnet-*", "b1")
        for _ in range(2):
            self.assertEqual(b.answer(session=None).status, 200)
            self.assertEqual(self.federation.served_by(), "b1")
            self.assertEqual(states(b, "friend")[0], "usable")
        self.assertEqual(len(self.federation.lines("model_not_allowed")), 2)
        self.assertEqual(b.answer(session=None, model="claude-sonnet-4-5").status, 200)
        self.assertEqual(self.federation.served_by(), "a1")

    def test_nobody_serves(self) -> None:
        """The client gets the lender's refusal, which a further borrower would understand as well."""
        _, b = self.begin("ccm", "claude-sonnet-*")
        for _ in range(2):
            refused = b.answer()
            self.assertEqual((refused.status, refused.error["type"]), (403, "permission_error"))
            self.assertEqual(refused.header("x-ccm-error"), "model_not_allowed")
            self.assertEqual(refused.header("x-should-retry"), "false")
            self.assertIn("claude-sonnet-*", refused.error["message"])
        self.assertEqual(states(b, "friend")[0], "usable")
        self.assertEqual(self.federation.turns(), [])
        self.assertEqual(b.answer(model="claude-sonnet-4-5").status, 200)

    def test_in_a_websocket(self) -> None:
        """The turn is refused within it, and the connection serves others."""
        _, b = self.begin("ocm", "gpt-5.*")
        client = open_socket(self, self.federation, b)
        client.say(event("response.create", model="gpt-6", input=[]))
        self.federation.settle()
        said = [json.loads(data) for data in client.without_limits()]
        self.assertEqual((said[-1]["status"], said[-1]["error"]["code"]), (403, "model_not_allowed"))
        self.assertEqual(states(b, "friend")[0], "usable")
        client.say(turn_message("hello"))
        self.federation.settle()
        self.assertEqual(json.loads(client.without_limits()[-1])["type"], "response.completed")


class RefusedAccountTests(SynchronousTestCase):
    """What a provider says of an account of the remote's is charged to that account, never to the remote (spec 12)."""

    def begin(self, kind: str, *accounts: str) -> ScriptedSimulator:
        """B has nothing but A, which has a pool of these accounts."""
        self.federation = federation = Federation(self, kind, ScriptedSimulator)
        account = federation.account if kind == "ccm" else federation.codex_account
        pool = f"{{tag: pool, type: balancer, credentials: [{', '.join(accounts)}], strategy: fallback}}"
        self.a = federation.add(A, [*map(account, accounts), pool], [user("b", "pool")])
        self.b = federation.add(
            B,
            [external("friend", "b", url=URL_A)],
            [user("alice", "friend", allow_external_usage=True)],
        )
        assert isinstance(federation.simulator, ScriptedSimulator)
        return federation.simulator

    def codex_answer(self) -> bytes:
        """The answer to a turn of alice's over an event stream."""
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
        body = {"model": "gpt-5.4", "stream": True, "store": False, "instructions": "", "input": [item]}
        response = self.b.answer(
            path="/v1/responses", session=None, headers=(("session-id", "s"),), body=json.dumps(body).encode()
        )
        self.federation.settle()
        self.assertEqual(response.status, 200, response.body)
        return response.body

    def asked(self) -> list[str | None]:
        """The accounts that turns were sent with."""
        return [turn.account for turn in self.federation.turns()]

    def test_a_refused_account(self) -> None:
        """The client gets the provider's sentence, then and later, and is not told to wait for a probe."""
        words = "OAuth authentication is currently not allowed for this organization."
        simulator = self.begin("ccm", "a1")
        error = {"type": "permission_error", "message": words}
        simulator.script.say(Answer(403, {"type": "error", "error": error}))
        first = self.b.answer()
        self.assertEqual((first.status, first.error["message"]), (403, words))
        self.assertIsNone(self.b.external("friend").state.refused)
        self.federation.settle()
        second = self.b.answer()
        self.assertEqual((second.status, second.header("x-ccm-error")), (400, "credential_unavailable"))
        self.assertIn(words, second.error["message"])
        self.assertIsNone(second.header("retry-after"))
        self.assertEqual(self.asked(), ["a1"])

    def test_a_used_up_model(self) -> None:
        """The remote serves its other models, and is asked for this one again: it may have got another account."""
        self.federation = federation = Federation(self)
        account = federation.account("a1", model_windows=("seven_day_opus",))
        self.a = federation.add(A, [account], [user("b", "a1")])
        friend = external("friend", "b", url=URL_A)
        self.b = federation.add(B, [friend], [user("alice", "friend", allow_external_usage=True)])
        federation.logins["a1"].exhaust("seven_day_opus", 86400.0)
        for _ in range(2):
            refused = self.b.answer(model="claude-opus-4-6")
            self.assertEqual((refused.status, refused.header("x-ccm-error")), (429, "rate_limited"))
            self.assertEqual(refused.header("x-ccm-limit"), "model_window")
            self.assertIn("earliest reset in 1d", refused.error["message"])
            self.assertEqual(self.b.answer(model="claude-sonnet-4-6").status, 200)
        self.assertEqual(len(federation.turns()), 3)
        self.assertEqual(states(self.b, "friend"), ("usable", ""))
        self.assertEqual(len(self.b.external("friend").state.model_rejections), 0)

    def test_used_up_in_mid_stream(self) -> None:
        """The client's next request is served by the remote's other account."""
        simulator = self.begin("ocm", "a1", "a2")
        error = {"code": "usage_limit_reached", "type": "usage_limit_reached", "resets_in_seconds": 3600}
        simulator.script.say(
            Answer(
                200,
                events=(
                    {"type": "response.created", "response": {"id": "r1"}},
                    {"type": "response.output_text.delta", "delta": "so far"},
                    {"type": "response.failed", "response": {"id": "r1", "error": error}},
                ),
            ),
            account="a1",
        )
        self.assertIn(b"usage_limit_reached", self.codex_answer())
        self.assertEqual(states(self.b, "friend")[0], "usable")
        self.assertIn(b"response.completed", self.codex_answer())
        self.assertEqual(self.asked(), ["a1", "a2"])

    def test_refused_within_a_websocket(self) -> None:
        """The message passes; the remote keeps its standing, whatever was said of its account."""
        used_up = {
            "type": "error",
            "status": 429,
            "error": {"type": "usage_limit_reached"},
            "headers": {
                "x-codex-primary-used-percent": "100",
                "x-codex-primary-window-minutes": "300",
                "x-codex-primary-reset-at": "1795003600",
            },
        }
        begun = (
            {"type": "response.created", "response": {"id": "r1"}},
            {"type": "response.output_text.delta", "delta": "so far"},
        )
        token = {"code": "token_expired", "message": "Could not parse your authentication token."}
        for answer in (
            Answer(402, {"error": {"code": "deactivated_workspace"}}),
            Answer(401, {"error": token}),
            Answer(429, {"error": {"type": "usage_limit_reached", "resets_in_seconds": 3600}}),
            # After the first byte the lender cannot have another account serve it.
            Answer(200, events=(*begun, used_up)),
        ):
            simulator = self.begin("ocm", "a1", "a2")
            simulator.script.say(answer, account="a1")
            client = open_socket(self, self.federation, self.b)
            external_ = self.b.external("friend")
            seen: list[str] = []
            external_.subscribe(lambda: seen.append(external_._availability().state))  # noqa: B023
            client.say(turn_message("hello"))
            self.federation.settle()
            self.assertEqual(set(seen) - {"usable"}, set(), answer)
            self.assertEqual(states(self.b, "friend"), ("usable", ""), answer)
            self.assertEqual(self.asked()[:1], ["a1"])


class ConnectorTests(SynchronousTestCase):
    """A connector serves the remote, and borrows from it as well, through the URL."""

    def test_both_ways(self) -> None:
        federation = Federation(self)
        b = federation.add(
            B,
            [federation.account("b1"), external("a", "a")],
            [user("alice", "a", allow_external_usage=True), user("b", "b1")],
        )
        a = federation.add(
            A,
            [federation.account("a1"), external("b", "a", url=URL_B, reverse=True)],
            [user("bob", "b", allow_external_usage=True), user("a", "a1")],
        )
        # B's token for A, as a user, is another than the one that A presents as a connector.
        b.reload(b.text.replace(user("b", "b1"), user("a", "b1")))
        self.assertEqual(b.answer().status, 200)
        self.assertEqual(federation.served_by(), "a1")
        self.assertEqual(a.answer(user="bob").status, 200)
        self.assertEqual(federation.served_by(), "b1")


class ChainTests(SynchronousTestCase):
    """Requests that pass more than one instance."""

    def test_three_in_a_row(self) -> None:
        federation = Federation(self)
        federation.add(A, [federation.account("a1")], [user("b", "a1")])
        federation.add(B, [external("a", "b", url=URL_A)], [user("c", "a", allow_external_usage=True)])
        c = federation.add(
            C, [external("b", "c", url=URL_B)], [user("alice", "b", allow_external_usage=True)]
        )
        self.assertEqual(c.answer("[[say:far]]").json()["content"][0]["text"], "far")
        told = c.get("/ccm/v1/status").json()
        self.assertEqual((told["plan_weight"], told["availability"]["state"]), (10, "usable"))

    def test_a_ring_does_not_turn_for_ever(self) -> None:
        """Each has nothing but the next one."""
        federation = Federation(self)
        ring = [
            federation.add(
                port,
                [external("next", token, url=url, plan_weight=1)],
                [user(name, "next", allow_external_usage=True), *alice],
            )
            for port, token, url, name, alice in (
                (A, "b", URL_B, "a", [user("alice", "next", allow_external_usage=True)]),
                (B, "c", URL_C, "b", []),
                (C, "a", URL_A, "c", []),
            )
        ]
        for instance in ring:
            instance.external("next").take_status(RemoteStatus(LimitsUpdate(), 1, True))
        response = ring[0].answer()
        self.assertNotEqual(response.status, 200)
        self.assertEqual(len(federation.lines("has passed too many instances")), 1)
        self.assertEqual(federation.turns(), [])
        requests = [event for event in federation.events if "tries" in event]
        self.assertLessEqual(len(requests), MOST_HOPS + 2)

    def test_the_count_is_not_the_clients_to_reset(self) -> None:
        federation = Federation(self)
        a = federation.add(A, [federation.account("a1")], [user("b", "a1")])
        self.assertEqual(a.answer(user="b", headers=(("X-CCM-Hops", "4"),)).status, 200)
        self.assertIsNone(first_value(federation.turns()[-1].headers, b"x-ccm-hops"))
        for hops in ("5", "99999999", "-1", "x"):
            response = a.answer(user="b", headers=(("X-CCM-Hops", hops),))
            self.assertEqual((response.status, response.header("x-ccm-error")), (508, "too_many_hops"))
            self.assertEqual(response.header("x-should-retry"), "false")
