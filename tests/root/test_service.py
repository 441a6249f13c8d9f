"""Tests of the life cycle of the root service: starting, listening, reloading, stopping."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import Config, OutboundConfig, UpstreamConfig, load_text
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.root.multiplexer import ListenFailed
from tests.conversation import CONFIGURATION, PROXY, TOKEN, UPSTREAM, World
from tests.proxy.manual_upstream import MESSAGE, START, STREAM_HEAD, TEXT, ManualUpstream

#: Another service at 8079, before the one at 8080.
TWO_SERVICES = CONFIGURATION.replace(
    "    listen_port: 8080",
    "    listen_port: 8079\n    credential_path: {path}\n    users: [{{name: bob, token: other-0815}}]\n"
    "  - type: ccm\n    listen_port: 8080",
)


def configuration(world: World, more: str = "", text: str = CONFIGURATION, **values: str) -> Config:
    """Return a configuration for ``world``."""
    return load_text(text.format(path=world.path, token=TOKEN, more=more, **values), "test.yaml")


def reload(world: World, config: Config) -> None:
    """Reload ``config``, and wait until that is done."""
    done = world.service.reload(config)
    world.network.flush()
    world.case.successResultOf(done)


class StartTests(SynchronousTestCase):
    """From the start to listening."""

    def test_credentials_are_ready_before_anybody_is_let_in(self) -> None:
        world = World(self, start=False)
        usable: list[bool] = []
        listen = world.surroundings.listen

        def listening(description: str) -> Any:
            usable.append(world.account.is_usable())
            return listen(description)

        object.__setattr__(world.surroundings, "listen", listening)
        self.assertEqual(world.clock.getDelayedCalls(), [])
        world.start()
        self.assertEqual(usable, [True])
        self.assertEqual(world.answer().status, 200)

    def test_nothing_happens_before_it_is_started(self) -> None:
        world = World(self, start=False)
        self.assertEqual(world.network.connections, [])
        self.assertEqual(list(world.network.listeners), [UPSTREAM])
        self.assertEqual(world.clock.getDelayedCalls(), [])
        self.assertFalse(world.service.running)

    def test_a_taken_address(self) -> None:
        """The error names the address. Nothing is left running, including the services before."""
        world = World(self, configuration=TWO_SERVICES, start=False)
        world.network.listen(*PROXY, Factory())
        with self.assertRaises(ListenFailed) as raised:
            world.service.startService()
        self.assertIn("127.0.0.1:8080", str(raised.exception))
        self.assertIn("in use", str(raised.exception))
        self.assertNotIn(("127.0.0.1", 8079), world.network.listeners)
        self.assertFalse(world.service.running)
        world.network.flush()
        self.assertEqual(world.clock.getDelayedCalls(), [])
        self.assertRaises(RuntimeError, world.service.startService)

    def test_a_login_that_is_missing_is_no_error(self) -> None:
        world = World(self, with_file=False)
        self.assertEqual(world.answer().status, 400)
        world.write_login()
        world.network.advance(3)
        self.assertEqual(world.answer().status, 200)

    def test_secrets_for_everybody_are_warned_of(self) -> None:
        world = World(self, start=False)
        os.chmod(world.path, 0o644)
        world.start()
        self.assertIn("chmod 600", world.logged())

    def test_lag_is_measured(self) -> None:
        """F24: the lag of the reactor is measured."""
        world = World(self)
        for _ in range(5):
            world.network.advance(1)
        self.assertEqual(world.service.lag.last, 0)
        world.network.advance(4)
        self.assertEqual(world.service.lag.worst, 3)
        self.assertIn("held up for", world.logged())


class StopTests(SynchronousTestCase):
    """From serving to the end."""

    def test_nothing_is_left(self) -> None:
        world = World(self)
        world.ask(stream=True)
        stopped = world.service.stopService()
        world.network.flush()
        self.successResultOf(stopped)
        self.assertEqual(world.clock.getDelayedCalls(), [])
        self.assertEqual([pump for pump in world.network.connections if not pump.closed], [])
        self.assertEqual(world.service.running, 0)

    def test_a_stream_in_flight_finishes(self) -> None:
        """SIGTERM: new connections are refused, requests in flight finish, and clients are told to close."""
        world = World(self)
        upstream = ManualUpstream(world)
        idle, _ = world.connect()
        client = world.ask(stream=True)
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(START)
        world.network.flush()
        stopped = world.service.stopService()
        world.network.flush()
        self.assertNotIn(PROXY, world.network.listeners)
        self.assertTrue(idle.broken)
        for _ in range(20):
            world.network.advance(1)
        self.assertNoResult(stopped)
        upstream.last.chunk(TEXT)
        upstream.last.chunk(MESSAGE[len(START) + len(TEXT) :])
        upstream.last.end()
        world.network.flush()
        self.assertEqual(client.responses()[0].body, MESSAGE)
        self.assertTrue(client.responses()[0].complete)
        self.assertTrue(client.broken)
        self.successResultOf(stopped)
        self.assertEqual(world.clock.getDelayedCalls(), [])
        self.assertEqual(world.results(), ["served"])

    def test_the_time_for_it_is_bounded(self) -> None:
        """After the grace time the stream is aborted in a way that the client notices."""
        world = World(self, more="shutdown_grace: 5s")
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(START)
        world.network.flush()
        stopped = world.service.stopService()
        world.network.advance(4.5)
        self.assertFalse(client.broken)
        world.network.advance(0.6)
        world.network.flush()
        self.assertTrue(client.broken)
        self.assertFalse(client.responses()[0].complete)
        self.successResultOf(stopped)
        self.assertIsNotNone(upstream.last.lost)
        self.assertEqual(world.clock.getDelayedCalls(), [])
        self.assertEqual(world.results(), ["incomplete"])

    def test_no_grace(self) -> None:
        world = World(self, more="shutdown_grace: 0s")
        client = world.ask("[[simulate:hang]]")
        stopped = world.service.stopService()
        world.network.advance(0)
        world.network.flush()
        self.successResultOf(stopped)
        self.assertTrue(client.broken)
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_requests_on_open_connections(self) -> None:
        """A request that was already on its way is answered, and the connection is closed."""
        world = World(self)
        client = world.ask("[[simulate:slow;seconds=3]]")
        stopped = world.service.stopService()
        world.network.flush()
        world.ask(client=client)
        world.network.advance(4)
        self.assertEqual(client.responses()[0].status, 200)
        self.assertEqual(client.responses()[0].header("connection"), "close")
        world.network.advance(3)
        self.successResultOf(stopped)
        self.assertEqual(len(world.simulator.requests.of("turn")), 1)

    def test_a_body_that_is_still_arriving(self) -> None:
        world = World(self, more="shutdown_grace: 5s")
        client = world.send(b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Len")
        stopped = world.service.stopService()
        for _ in range(9):
            world.network.advance(1)
        self.successResultOf(stopped)
        self.assertTrue(client.broken)

    def test_status_streams_end(self) -> None:
        """The streams are ended regularly, since they have no end of their own."""
        world = World(self)
        client = world.send(
            f"GET /ccm/v1/status?watch=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        self.assertFalse(client.responses()[0].complete)
        stopped = world.service.stopService()
        world.network.flush()
        self.assertTrue(client.responses()[0].complete)
        self.successResultOf(stopped)
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_a_refresh_in_flight_is_waited_for(self) -> None:
        """F3: the answer holds the only copy of the login."""
        world = World(self)
        world.clock.advance(8 * 3600)
        world.simulator.faults.next("slow;seconds=3", endpoint="token")
        client = world.ask()
        assert client.transport is not None
        client.transport.abortConnection()
        world.network.flush()
        stopped = world.service.stopService()
        world.network.advance(1)
        self.assertNoResult(stopped)
        world.network.advance(3)
        world.network.advance(1)
        self.successResultOf(stopped)
        with open(world.path, "rb") as file:
            self.assertIn(world.login.refresh_token.encode(), file.read())
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_twice(self) -> None:
        world = World(self)
        world.ask("[[simulate:slow;seconds=3]]")
        first, second = world.service.stopService(), world.service.stopService()
        world.network.advance(4)
        world.network.flush()
        self.successResultOf(first)
        self.successResultOf(second)
        self.successResultOf(world.service.stopService())

    def test_without_having_been_started(self) -> None:
        world = World(self, start=False)
        self.successResultOf(world.service.stopService())
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_not_again(self) -> None:
        """A service cannot be started again, and says so."""
        world = World(self)
        stopped = world.service.stopService()
        world.network.flush()
        self.successResultOf(stopped)
        self.assertRaises(RuntimeError, world.service.startService)
        self.assertNotIn(PROXY, world.network.listeners)


TWO_CREDENTIALS = """
services:
  - type: ccm
    listen_port: {port}
    credentials:
      - {{tag: a, credential_path: {path}}}
{more}
    users:
      - {{name: alice, token: {token}, credential: {credential}}}
    upstream: {{api_url: "http://127.0.0.1:9000", token_url: "http://127.0.0.1:9000/v1/oauth/token",
                usage_url: "http://127.0.0.1:9000/api/oauth/usage",
                profile_url: "http://127.0.0.1:9000/api/oauth/profile"}}
"""


class ReloadTests(SynchronousTestCase):
    """Reloads without dropping a connection (spec 1, Reload)."""

    def test_users(self) -> None:
        """The requests of a removed user finish on their connections; later ones are refused."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        connection = upstream.last
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START)
        world.network.flush()
        text = CONFIGURATION.replace(
            "{{name: alice, token: {token}}}", "{{name: bob, token: bobs-token-0815}}"
        )
        reload(world, configuration(world, text=text))
        connection.chunk(MESSAGE[len(START) :])
        connection.end()
        world.network.flush()
        self.assertEqual(client.responses()[0].body, MESSAGE)
        world.ask(client=client)
        self.assertEqual(client.responses()[1].status, 401)
        self.assertFalse(client.broken)
        connection.transport.loseConnection()
        world.network.flush()
        world.upstream.factory = world.simulator.factory
        self.assertEqual(world.answer(token="bobs-token-0815").status, 200)

    def test_an_unchanged_credential_keeps_what_it_knows(self) -> None:
        world = World(self)
        account, state = world.account, world.account.state
        polls = len(world.simulator.requests.of("usage"))
        reload(world, configuration(world, more="    ping_interval: 5s\n    max_request_body: 1KiB"))
        self.assertIs(world.account, account)
        self.assertIs(world.account.state, state)
        self.assertEqual(len(world.simulator.requests.of("usage")), polls)
        self.assertEqual(world.answer("x" * 2000).status, 413)
        self.assertEqual(world.answer().status, 200)

    def test_other_caps_apply_to_what_is_known(self) -> None:
        world = World(
            self, configuration=TWO_CREDENTIALS.replace("{port}", "8080").replace("{credential}", "a")
        )
        world.login.set_utilization("five_hour", 60)
        world.answer()
        account = world.account
        text = TWO_CREDENTIALS.replace("{{tag: a, ", "{{tag: a, limit_5h: 50, ")
        self.assertNotEqual(text, TWO_CREDENTIALS)
        reload(world, configuration(world, "", text, port="8080", credential="a"))
        self.assertIs(world.account, account)
        self.assertEqual(world.answer().status, 429)
        reload(world, configuration(world, "", TWO_CREDENTIALS, port="8080", credential="a"))
        self.assertEqual(world.answer().status, 200)

    def test_credentials_come_and_go(self) -> None:
        world = World(
            self, configuration=TWO_CREDENTIALS.replace("{port}", "8080").replace("{credential}", "a")
        )
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        upstream.last.transport.write(STREAM_HEAD)
        upstream.last.chunk(START)
        world.network.flush()
        old = world.account
        world.upstream.factory = world.simulator.factory
        other = world.simulator.add_account("other")
        path = f"{self.mktemp()}.json"
        with open(path, "wb") as file:
            file.write(other.credentials_document())
        # A second service is added, and the user moves to it …
        more = f"      - {{tag: b, credential_path: {path}}}"
        reload(world, configuration(world, more, TWO_CREDENTIALS, port="8080", credential="b"))
        self.assertEqual([account.tag for account in world.entry.accounts.values()], ["a", "b"])
        self.assertIs(world.account, old)
        world.answer()
        self.assertEqual(world.simulator.requests.of("turn")[-1].account, "other")
        # … and the first service is removed while its stream goes on.
        text = TWO_CREDENTIALS.replace("      - {{tag: a, credential_path: {path}}}\n", "")
        reload(world, configuration(world, more, text, port="8080", credential="b"))
        self.assertEqual([account.tag for account in world.entry.accounts.values()], ["b"])
        self.assertEqual(len(old.leases), 1)
        connection = upstream.last
        connection.chunk(MESSAGE[len(START) :])
        connection.end()
        world.network.flush()
        self.assertEqual(client.responses()[0].body, MESSAGE)
        self.assertTrue(client.responses()[0].complete)
        self.assertEqual(old.leases, set())
        self.assertIsNotNone(connection.lost)

    def test_the_address(self) -> None:
        """A new listener replaces the old one, on which a stream goes on."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        connection = upstream.last
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START)
        world.network.flush()
        text = CONFIGURATION.replace("listen_port: 8080", "listen_port: 8090")
        reload(world, configuration(world, text=text))
        self.assertNotIn(PROXY, world.network.listeners)
        self.assertIn(("127.0.0.1", 8090), world.network.listeners)
        connection.chunk(MESSAGE[len(START) :])
        connection.end()
        world.network.flush()
        self.assertEqual(client.responses()[0].body, MESSAGE)

    def test_the_same_port_on_other_interfaces(self) -> None:
        """The old listener is closed before the new one opens, because the port is the same."""
        world = World(self)
        text = CONFIGURATION.replace("listen_port: 8080", "listen: 0.0.0.0\n    listen_port: 8080")
        reload(world, configuration(world, text=text))
        self.assertEqual(len(world.service.services), 1)
        self.assertEqual(world.answer().status, 200)

    def test_an_address_that_is_taken(self) -> None:
        """This is logged, and the other services go on."""
        world = World(self)
        world.network.listen("127.0.0.1", 8090, Factory())
        other = CONFIGURATION.replace("services:\n", "").replace("8080", "8090")
        reload(world, configuration(world, text=CONFIGURATION + other))
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(len(world.service.services), 1)
        self.assertIn("cannot listen on 127.0.0.1:8090", world.logged())

    def test_a_stream_of_a_retired_service_is_waited_for(self) -> None:
        """Stopping waits also for what a reload has removed."""
        world = World(self)
        upstream = ManualUpstream(world)
        client = world.ask(stream=True)
        connection = upstream.last
        connection.transport.write(STREAM_HEAD)
        connection.chunk(START)
        world.network.flush()
        text = CONFIGURATION.replace("listen_port: 8080", "listen_port: 8090")
        reload(world, configuration(world, text=text))
        stopped = world.service.stopService()
        world.network.flush()
        self.assertNoResult(stopped)
        connection.chunk(MESSAGE[len(START) :])
        connection.end()
        world.network.flush()
        self.assertTrue(client.responses()[0].complete)
        self.successResultOf(stopped)
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_stopped_in_the_middle_of_a_reload(self) -> None:
        """Nothing else is started."""
        world = World(self, configuration=TWO_SERVICES)
        port = next(iter(world.service.services.values())).port
        assert port is not None
        closed: Deferred[None] = Deferred()
        stop_listening = port.stopListening

        def stop() -> Deferred[None]:
            stop_listening()
            return closed

        port.stopListening = stop  # type: ignore[method-assign]
        other = world.simulator.add_account("other")
        path = f"{self.mktemp()}.json"
        with open(path, "wb") as file:
            file.write(other.credentials_document())
        reloaded = world.service.reload(configuration(world, text=CONFIGURATION.replace("{path}", path)))
        world.network.flush()
        self.assertNoResult(reloaded)
        stopped = world.service.stopService()
        world.network.flush()
        closed.callback(None)
        world.network.flush()
        self.successResultOf(reloaded)
        self.successResultOf(stopped)
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_a_file_that_cannot_be_read(self) -> None:
        """Nothing changes, whichever service the file is for."""
        world = World(self)

        def unreadable(upstream: UpstreamConfig, detour: OutboundConfig | None) -> IOutbound:
            raise OSError("cannot read ca.pem")

        object.__setattr__(world.surroundings, "outbound", unreadable)
        account, config = world.account, world.service.config
        text = CONFIGURATION.replace("api_url: ", "first_byte_timeout: 20s\n      api_url: ")
        reload(world, configuration(world, text=text + "    ping_interval: 5s"))
        self.assertIs(world.account, account)
        self.assertIs(world.service.config, config)
        self.assertIn("cannot read ca.pem", world.logged())
        self.assertEqual(world.answer().status, 200)

    def test_watchers_connect_again(self) -> None:
        world = World(self)
        client = world.send(
            f"GET /ccm/v1/status?watch=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        )
        reload(world, configuration(world))
        self.assertTrue(client.responses()[0].complete)

    def test_many_times(self) -> None:
        """Nothing accumulates."""
        world = World(self)
        for number in range(50):
            reload(world, configuration(world, more=f"      idle_timeout: {100 + number}s"))
            world.answer()
        for _ in range(3):
            world.network.advance(1)
        self.assertLess(len(world.clock.getDelayedCalls()), 12)
        self.assertEqual(len(world.upstream.open_connections), 1)

    def test_after_the_end(self) -> None:
        """A late SIGHUP starts nothing."""
        world = World(self)
        stopped = world.service.stopService()
        world.network.flush()
        self.successResultOf(stopped)
        text = CONFIGURATION.replace("listen_port: 8080", "listen_port: 8090")
        reload(world, configuration(world, text=text))
        self.assertNotIn(("127.0.0.1", 8090), world.network.listeners)
        self.assertEqual(world.clock.getDelayedCalls(), [])


class InterfaceTests(SynchronousTestCase):
    """The network of the machine has changed (spec 7.4), and the embedding program reports it."""

    CONNECTOR = """
services:
  - type: ccm
    listen_port: 8080
    credentials:
{credentials}
      - {{tag: friend, type: external, token: friend-token-4711, url: "http://127.0.0.1:7000", reverse: true}}
    users:
      - {{name: alice, token: {token}, credential: a1}}
    upstream: {{api_url: "http://127.0.0.1:9000", token_url: "http://127.0.0.1:9000/v1/oauth/token",
                usage_url: "http://127.0.0.1:9000/api/oauth/usage",
                profile_url: "http://127.0.0.1:9000/api/oauth/profile"}}
"""

    def attempts(self, world: World) -> int:
        """Return the number of attempts to open reverse connections since the last call. Nobody borrows, so nobody
        polls."""
        world.network.flush()
        before, self.counted = (
            getattr(self, "counted", 0),
            world.network.listeners["127.0.0.1", 7000].attempts,
        )
        return self.counted - before

    def test_at_any_time(self) -> None:
        world = World(self, configuration=self.CONNECTOR, start=False)
        world.network.listen("127.0.0.1", 7000, Factory()).hanging = True
        world.service.interfaceUpdated()
        self.assertEqual(self.attempts(world), 0)
        world.start()
        self.assertEqual(self.attempts(world), 1)
        for _ in range(3):
            world.service.interfaceUpdated()
            self.assertEqual(self.attempts(world), 1)
        stopped = world.service.stopService()
        world.service.interfaceUpdated()
        world.network.advance(1)
        self.successResultOf(stopped)
        world.service.interfaceUpdated()
        self.assertEqual(self.attempts(world), 0)
        self.assertEqual(world.clock.getDelayedCalls(), [])

    def test_nobody_to_dial(self) -> None:
        world = World(self)
        connections = len(world.network.connections)
        world.service.interfaceUpdated()
        self.assertEqual(len(world.network.connections), connections)
        self.assertEqual(world.answer().status, 200)
