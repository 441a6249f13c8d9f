"""Tests of the status endpoint: one object, and the stream of its changes (spec 8)."""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.surfaces.status import APART, BURST, STALLED_WATCHER
from tests.conversation import ANONYMOUS, TOKEN, Client, World

STATUS = "/ccm/v1/status"
HOUR = 3600.0


class StatusTests(SynchronousTestCase):
    """``GET /ccm/v1/status`` (spec 8.2)."""

    def test_one_object(self) -> None:
        world = World(self, start=False)
        world.login.set_utilization("five_hour", 12.5, 2 * HOUR)
        world.login.set_utilization("seven_day", 30, 100 * HOUR)
        world.start()
        response = world.get(STATUS)
        self.assertEqual(response.status, 200)
        self.assertEqual(response.header("content-type"), "application/json")
        self.assertEqual(response.header("cache-control"), "no-store")
        self.assertRegex(response.header("x-ccm-request-id") or "", "^req_")
        self.assertEqual(
            response.json(),
            {
                # The remainder up to the cap of 99 % counts (8.1).
                "five_hour_utilization": 13.5,
                "five_hour_reset": int(world.clock.seconds() + 2 * HOUR),
                "weekly_utilization": 31.0,
                "weekly_reset": int(world.clock.seconds() + 100 * HOUR),
                "plan_weight": 10,
                "availability": {"state": "usable", "reason": "", "reset_at": 0, "reset_in": 0},
            },
        )

    def test_it_agrees_with_the_headers(self) -> None:
        """8.3: the client sees the same state either way."""
        world = World(self)
        world.login.set_utilization("five_hour", 40, HOUR)
        answer = world.answer()
        status = world.get(STATUS).json()
        self.assertEqual(
            float(answer.header("anthropic-ratelimit-unified-5h-utilization") or -1),
            status["five_hour_utilization"] / 100,
        )
        self.assertEqual(
            answer.header("anthropic-ratelimit-unified-5h-reset"), str(status["five_hour_reset"])
        )

    def test_nothing_known(self) -> None:
        world = World(self, with_file=False)
        status = world.get(STATUS).json()
        self.assertEqual(
            (status["five_hour_utilization"], status["weekly_utilization"], status["plan_weight"]),
            (100, 100, 0),
        )
        self.assertEqual((status["five_hour_reset"], status["weekly_reset"]), (0, 0))
        self.assertEqual(status["availability"]["state"], "unavailable")

    def test_used_up(self) -> None:
        world = World(self)
        world.login.exhaust("five_hour", HOUR)
        world.answer()
        status = world.get(STATUS).json()
        self.assertEqual(status["availability"]["state"], "rate_limited")
        self.assertEqual(status["availability"]["reset_at"], int(world.clock.seconds() + HOUR))
        self.assertEqual(status["availability"]["reset_in"], HOUR)
        self.assertEqual(status["five_hour_utilization"], 100)
        world.network.advance(100)
        status = world.get(STATUS).json()
        self.assertEqual(status["availability"]["reset_in"], HOUR - 100)

    def test_strangers(self) -> None:
        world = World(self)
        for token in (None, "wrong"):
            response = world.get(STATUS, token)
            self.assertEqual((response.status, response.error["type"]), (401, "authentication_error"))

    def test_without_users(self) -> None:
        world = World(self, configuration=ANONYMOUS)
        self.assertEqual(world.get(STATUS, None).json()["plan_weight"], 10)

    def test_only_get(self) -> None:
        world = World(self)
        for method in ("POST", "PUT", "DELETE"):
            response = world.get(STATUS, method=method)
            self.assertEqual((response.status, response.header("allow")), (405, "GET"))
            self.assertEqual(response.json()["type"], "error")
        client = world.send(f"HEAD {STATUS} HTTP/1.1\r\nHost: x\r\nx-api-key: {TOKEN}\r\n\r\n".encode())
        self.assertTrue(client.received.startswith(b"HTTP/1.1 405 "))
        self.assertEqual(world.get(STATUS, token="wrong", method="POST").status, 401)

    def test_queries(self) -> None:
        world = World(self)
        for query in ("", "?", "?watch=false", "?watch=", "?watch", "?x=1&x=%zz&%ff", "?watch=true&watch=no"):
            response = world.get(STATUS + query)
            self.assertTrue(response.complete, query)
            self.assertIn("plan_weight", response.json())

    def test_a_body_is_ignored(self) -> None:
        world = World(self)
        head = f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        client = world.send(f"{head}Content-Length: 5\r\n\r\nhello{head}\r\n".encode())
        self.assertEqual([response.status for response in client.responses()], [200, 200])

    def test_a_body_that_does_not_come(self) -> None:
        world = World(self)
        head = f"GET {STATUS} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        client = world.send(f"{head}Content-Length: 5\r\n\r\n".encode())
        world.network.advance(100)
        self.assertEqual([response.status for response in client.responses()], [408])
        client = world.send(f"{head}Content-Length: 500000\r\n\r\n".encode())
        self.assertEqual([response.status for response in client.responses()], [413])


class WatchTests(SynchronousTestCase):
    """``?watch=true``."""

    def watch(self, world: World, **options: Any) -> Client:
        """Open a stream. The client has received the first line."""
        client, _ = world.connect(**options)
        request = f"GET {STATUS}?watch=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        return world.send(request.encode(), client)

    def lines(self, client: Client) -> list[dict[str, Any]]:
        """Return the objects received so far."""
        response = client.responses()[0]
        self.assertEqual((response.status, response.header("content-type")), (200, "application/json"))
        self.assertEqual(response.header("x-accel-buffering"), "no")
        *lines, rest = response.body.split(b"\n")
        self.assertEqual(rest, b"")
        return [json.loads(line) for line in lines]

    def test_the_first_at_once_then_each_change(self) -> None:
        world = World(self)
        client = self.watch(world)
        first = self.lines(client)
        self.assertEqual(first, [world.get(STATUS).json()])
        world.login.set_utilization("five_hour", 20, HOUR)
        world.answer()
        world.network.advance(0)
        second = self.lines(client)[1:]
        self.assertEqual([line["five_hour_utilization"] for line in second], [21])
        self.assertFalse(client.responses()[0].complete)
        self.assertRegex(client.responses()[0].header("x-ccm-request-id") or "", "^req_")

    def test_what_changes_nothing_is_not_told(self) -> None:
        world = World(self)
        world.answer()
        client = self.watch(world)
        for _ in range(5):
            world.answer()
            world.network.advance(60)
        self.assertEqual(len(self.lines(client)), 1)

    def test_time_alone_is_no_change(self) -> None:
        """During hours without a change, the reported resets must not vary by a second."""
        world = World(self, start=False)
        world.login.set_utilization("five_hour", 20, 4 * HOUR + 0.5)
        world.login.set_utilization("seven_day", 20, 77 * HOUR + 0.3)
        world.start()
        client = self.watch(world)
        for _ in range(400):
            world.network.advance(31.7)
        self.assertEqual(len(self.lines(client)), 1)

    def test_a_burst_is_told_once(self) -> None:
        world = World(self)
        client = self.watch(world)
        for percent in range(10, 60, 10):
            world.login.set_utilization("five_hour", percent, HOUR)
            world.answer()
        self.assertEqual(len(self.lines(client)), 1)
        world.network.advance(0)
        self.assertEqual([line["five_hour_utilization"] for line in self.lines(client)[1:]], [51])

    def test_changes_without_end(self) -> None:
        """The first states are sent at once, later ones at intervals, and the last one always."""
        world = World(self)
        client = self.watch(world)
        told = []
        for step in range(1, 41):
            world.login.set_utilization("five_hour", step, HOUR)
            world.answer()
            world.network.advance(0.05)
            told.append(len(self.lines(client)) - 1)
        self.assertEqual(told[: BURST - 1], list(range(1, BURST)))
        self.assertLess(told[-1], BURST + 40 * 0.05 / APART + 1)
        world.network.advance(APART)
        self.assertEqual(self.lines(client)[-1]["five_hour_utilization"], 41)
        world.network.advance(60)
        count = len(self.lines(client))
        for step in range(BURST):
            world.login.set_utilization("five_hour", 50 + step, HOUR)
            world.answer()
            world.network.advance(0)
        self.assertEqual(len(self.lines(client)), count + BURST)

    def test_a_reset_that_passes_is_a_change(self) -> None:
        world = World(self)
        world.login.set_utilization("five_hour", 50, HOUR)
        world.answer()
        client = self.watch(world)
        world.network.advance(HOUR - 1)
        self.assertEqual(len(self.lines(client)), 1)
        world.network.advance(2)
        world.network.advance(0)
        last = self.lines(client)[-1]
        self.assertEqual((last["five_hour_utilization"], last["five_hour_reset"]), (1, 0))

    def test_a_rate_limit_and_its_end(self) -> None:
        world = World(self)
        client = self.watch(world)
        world.login.exhaust("five_hour", HOUR)
        world.answer()
        world.network.advance(1)
        world.network.advance(HOUR)
        world.network.advance(1)
        states = [line["availability"]["state"] for line in self.lines(client)]
        self.assertEqual((states[0], states[1], states[-1]), ("usable", "rate_limited", "usable"))

    def test_a_login_that_goes_and_comes(self) -> None:
        world = World(self)
        client = self.watch(world)
        os.remove(world.path)
        world.see_files()
        world.network.advance(0)
        world.write_login()
        world.see_files()
        world.network.advance(0)
        states = [line["availability"]["state"] for line in self.lines(client)]
        self.assertEqual(states, ["usable", "unavailable", "usable"])

    def test_a_slow_reader_is_told_the_latest(self) -> None:
        world = World(self)
        client = self.watch(world, high_mark=1, wire_size=1024)
        pump = world.network.listeners["127.0.0.1", 8080].connections[-1]
        pump.client.pauseProducing()
        self.change(world, 8)
        self.assertLess(pump.server.buffered, 2048)
        world.network.advance(STALLED_WATCHER - 5)
        pump.client.resumeProducing()
        world.network.flush()
        lines = self.lines(client)
        self.assertLess(len(lines), 9)
        self.assertEqual(lines[-1], world.get(STATUS).json())
        world.network.advance(STALLED_WATCHER * 2)
        self.assertFalse(client.broken)

    def change(self, world: World, times: int) -> None:
        """Change the state this many times."""
        for number in range(times):
            world.login.set_utilization("five_hour", 10 + 5 * number, HOUR)
            world.answer()
            world.network.advance(0.1)

    def test_a_reader_that_has_stopped_is_dropped(self) -> None:
        world = World(self)
        client = self.watch(world, high_mark=1, wire_size=1024)
        pump = world.network.listeners["127.0.0.1", 8080].connections[-1]
        pump.client.pauseProducing()
        self.change(world, 12)
        self.assertEqual(len(world.entry.status.watchers), 1)
        world.network.advance(STALLED_WATCHER)
        self.assertEqual(len(world.entry.status.watchers), 0)
        self.assertTrue(pump.server.disconnected)
        self.assertEqual(world.account._listeners, {})
        pump.client.resumeProducing()
        world.network.flush()
        self.assertTrue(client.broken)
        self.assertFalse(client.responses() and client.responses()[0].complete)

    def test_a_watcher_that_leaves(self) -> None:
        world = World(self)
        client = self.watch(world)
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        self.assertEqual(world.entry.status.watchers, set())
        self.assertEqual(world.account._listeners, {})
        self.change(world, 2)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_watcher_that_leaves_in_the_moment_of_a_change(self) -> None:
        world = World(self)
        client = self.watch(world)
        world.login.set_utilization("five_hour", 30, HOUR)
        world.answer()
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        world.network.advance(1)
        self.assertEqual(len(self.lines(client)), 1)

    def test_it_ends_cleanly_when_the_service_stops(self) -> None:
        world = World(self)
        clients = [self.watch(world) for _ in range(3)]
        world.service.stopService()
        world.network.flush()
        for client in clients:
            self.assertEqual(len(self.lines(client)), 1)
            self.assertTrue(client.responses()[0].complete)
        world.network.advance(5)
        self.assertTrue(all(client.broken for client in clients))

    def test_a_watcher_does_not_hold_up_the_end(self) -> None:
        """This holds also for a watcher that does not read."""
        world = World(self)
        self.watch(world, high_mark=1, wire_size=1024)
        pump = world.network.listeners["127.0.0.1", 8080].connections[-1]
        pump.client.pauseProducing()
        self.change(world, 12)
        stopped = world.service.stopService()
        for _ in range(40):
            world.network.advance(1)
        self.successResultOf(stopped)
