"""Bodies of requests that are held at a time: what many of them cost, and who may hold how much (F63)."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.proxy.body_memory import BodyMemory
from ccmproxy.proxy.context import ProxyOptions
from tests.conversation import Client, Response, message_request
from tests.pooled import BOB, PoolWorld
from tests.proxy.manual_upstream import ManualUpstream
from tests.proxy.raw_upstream import RawUpstream, http_response
from tests.proxy.websocket.scene import CREATE, Scene

KIB = 1024
#: A body takes some 800 of the 1,024 bytes that one user may hold; two users may hold one each, and no third.
ROOM = "    max_request_body: 1KiB\n    max_request_bodies: 2KiB"
PROMPT = "x" * 700
SERVED = http_response(200, body=b'{"type":"message"}')


class RoomTests(SynchronousTestCase):
    """Who is refused, with what, and when there is room again."""

    def begin(self, *answers: bytes) -> PoolWorld:
        world = PoolWorld(self, more=ROOM)
        self.upstream = RawUpstream(world, answers or (SERVED,))
        return world

    def memory(self, world: PoolWorld) -> BodyMemory:
        return world.entry.forwarder.context.bodies

    def half_sent(
        self, world: PoolWorld, *, is_chunked: bool = False, **options: Any
    ) -> tuple[Client, bytes]:
        """A client that has sent a part of its body, and the rest."""
        request = message_request(PROMPT, **options)
        if is_chunked:
            head, _, body = request.partition(b"\r\n\r\n")
            lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"content-length")]
            head = b"\r\n".join([*lines, b"Transfer-Encoding: chunked"])
            request = head + b"\r\n\r\n%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"
        return world.send(request[:-50]), request[-50:]

    def assert_no_room(self, response: Response) -> None:
        self.assertEqual((response.status, response.header("x-ccm-error")), (503, "too_many_bodies"))
        self.assertEqual(response.header("retry-after"), "1")
        self.assertEqual(response.json()["type"], "error")

    def test_of_one_user(self) -> None:
        """Whoever holds his half is told to come back; others are served, and he too when he holds less."""
        for is_chunked in (False, True):
            world = self.begin()
            client, rest = self.half_sent(world, is_chunked=is_chunked)
            self.assert_no_room(world.answer(PROMPT))
            self.assertEqual(world.answer(PROMPT, token=BOB).status, 200)
            self.assertEqual(world.answer("short").status, 200)
            world.send(rest, client)
            self.assertEqual(client.responses()[0].status, 200)
            self.assertEqual(world.answer(PROMPT).status, 200)
            self.assertEqual(self.memory(world).held, 0)
            world.close()

    def test_of_all_together(self) -> None:
        world = self.begin()
        memory = self.memory(world)
        other = memory.reservation("carol", 2 * KIB)
        other.grow(KIB)
        client, rest = self.half_sent(world)
        self.assert_no_room(world.answer(PROMPT, token=BOB))
        other.release()
        self.assertEqual(world.answer(PROMPT, token=BOB).status, 200)
        world.send(rest, client)
        self.assertEqual(client.responses()[0].status, 200)

    def test_a_chunked_body_that_grows_beyond_it(self) -> None:
        """It is refused while it comes, is not forwarded, and what was kept of it is given back."""
        world = self.begin()
        other = self.memory(world).reservation("alice", 2 * KIB)
        client, rest = self.half_sent(world, is_chunked=True)
        other.grow(KIB - self.memory(world).held)
        world.send(rest, client)
        self.assert_no_room(client.responses()[0])
        self.assertEqual(self.upstream.received, [])
        self.assertEqual(self.memory(world).held, other.size)
        other.release()

    def test_a_client_that_leaves(self) -> None:
        world = self.begin()
        client, _ = self.half_sent(world)
        self.assertGreater(self.memory(world).held, 700)
        assert client.transport is not None
        client.transport.abortConnection()
        world.network.flush()
        self.assertEqual(self.memory(world).held, 0)

    def test_only_until_an_answer_has_begun(self) -> None:
        """An answer may take minutes; nothing is sent again once it has begun."""
        world = PoolWorld(self, more=ROOM)
        upstream = ManualUpstream(world)
        client = world.ask(PROMPT)
        self.assert_no_room(world.answer(PROMPT))
        answering = upstream.last
        answering.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        world.network.flush()
        self.assertEqual(client.responses()[0].status, 200)
        self.assertEqual(self.memory(world).held, 0)
        second = world.ask(PROMPT)
        self.assertEqual(second.received, b"", "it is under way")
        answering.transport.write(b"67890")
        world.network.flush()
        self.assertTrue(client.responses()[0].complete)

    def test_held_while_it_may_be_sent_again(self) -> None:
        """The second account gets it whole, and a refusal gives the room back as well."""
        busy = http_response(429, ("Retry-After", "20"))
        overloaded = http_response(529)
        world = self.begin(busy, SERVED, overloaded)
        self.assertEqual(world.answer(PROMPT).status, 200)
        bodies = [each.partition(b"\r\n\r\n")[2] for each in self.upstream.received]
        self.assertEqual(len(bodies), 2)
        self.assertEqual(bodies[0], bodies[1])
        self.assertEqual(self.memory(world).held, 0)
        self.assertEqual(world.answer(PROMPT).status, 529)
        self.assertEqual(self.memory(world).held, 0)

    def test_after_a_reload(self) -> None:
        """More may be held from now on; what is held already counts."""
        world = self.begin()
        client, rest = self.half_sent(world)
        self.assert_no_room(world.answer(PROMPT))
        world.reload(world.configuration.replace("max_request_bodies: 2KiB", "max_request_bodies: 4KiB"))
        held = self.memory(world).held
        self.assertGreater(held, 700)
        again, again_rest = self.half_sent(world)
        self.assertGreater(self.memory(world).held, held + 700)
        for each, missing in ((client, rest), (again, again_rest)):
            world.send(missing, each)
            self.assertEqual(each.responses()[0].status, 200)


class MessageTests(SynchronousTestCase):
    """Messages of WebSockets count while they are not complete, or not passed on."""

    def test_a_message_in_pieces(self) -> None:
        scene = Scene(self, options=ProxyOptions(max_bodies=2000))
        client, upstream = scene.connected()
        first, second = b"\x01\xfe", b"\x80\xfe"
        client.transport.write(first + (600).to_bytes(2, "big") + bytes(4) + b"x" * 600)
        scene.settle()
        self.assertEqual(scene.forwarder.context.bodies.held, 600)
        client.transport.write(second + (300).to_bytes(2, "big") + bytes(4) + b"y" * 300)
        scene.settle()
        self.assertEqual(upstream.messages, [b"x" * 600 + b"y" * 300])
        self.assertEqual(scene.forwarder.context.bodies.held, 0)

    def test_no_room_for_a_clients_message(self) -> None:
        """Its connection is closed with 1013, on which it tries again; the user's other one goes on."""
        scene = Scene(self, options=ProxyOptions(max_bodies=2000))
        other, _ = scene.connected()
        client, upstream = scene.connected()
        client.transport.write(b"\x81\xfe" + (1200).to_bytes(2, "big") + bytes(4) + b"x" * 1100)
        scene.settle()
        self.assertEqual((client.code, upstream.code), (1013, 1001))
        self.assertEqual(upstream.messages, [])
        self.assertEqual(scene.forwarder.context.bodies.held, 0)
        self.assertIsNone(other.code)
        client.transport.write(b"x" * 100 + b"\x82\xff" + bytes(5) + b"\x20\0\0" + bytes(4) + b"y" * 5000)
        scene.settle()
        self.assertIsNone(client.lost, "it may still be sending when it gets the close")
        self.assertEqual(scene.forwarder.context.bodies.held, 0)
        scene.pass_time(6)
        self.assertEqual(scene.results(), ["too_many_bodies"])

    def test_no_room_for_an_upstreams_message(self) -> None:
        """The client is told the same: it is not the upstream that broke the protocol."""
        scene = Scene(self, options=ProxyOptions(max_bodies=2000))
        client, upstream = scene.connected()
        upstream.transport.write(b"\x81\x7e" + (1200).to_bytes(2, "big") + b"x" * 1100)
        scene.settle()
        self.assertEqual((client.code, upstream.code), (1013, 1013))

    def test_what_the_other_side_does_not_take(self) -> None:
        """A message that has come in pieces counts until it is taken, and is never refused once it is complete."""
        size = 3_000_000
        scene = Scene(self, options=ProxyOptions(max_bodies=2 * size))
        client, upstream = scene.connected()
        upstream.transport.pauseProducing()
        head = b"\x82\xff" + size.to_bytes(8, "big") + bytes(4)
        client.transport.write(head + b"x" * size)
        scene.settle()
        self.assertGreater(scene.forwarder.context.bodies.held, size // 2)
        upstream.transport.resumeProducing()
        scene.settle()
        self.assertEqual([len(each) for each in upstream.messages], [size])
        self.assertEqual(scene.forwarder.context.bodies.held, 0)
        client.say(CREATE)
        scene.settle()
        self.assertEqual(upstream.messages[1:], [CREATE])
