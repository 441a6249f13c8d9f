"""Bodies of requests that are held at a time: what many of them cost, and who may hold how much (F63)."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.proxy.body_memory import BodyMemory
from ccmproxy.proxy.context import ProxyOptions
from ccmproxy.proxy.exchange import Exchange
from tests.conversation import TOKEN, Client, Response, message_request
from tests.pooled import BOB, PoolWorld
from tests.proxy.manual_upstream import ManualUpstream
from tests.proxy.raw_upstream import RawUpstream, http_response
from tests.proxy.websocket.scene import CREATE, Scene

KIB = 1024
MIB = 1024 * KIB
#: A body takes some 700 of the 1,024 KiB that one user may hold; two users may hold one each, and no third.
ROOM = "    max_request_body: 1MiB\n    max_request_bodies: 2MiB"
PROMPT = "x" * (700 * KIB)
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
        other = memory.reservation("carol", 2 * MIB)
        other.grow(MIB)
        client, rest = self.half_sent(world)
        self.assert_no_room(world.answer(PROMPT, token=BOB))
        other.release()
        self.assertEqual(world.answer(PROMPT, token=BOB).status, 200)
        world.send(rest, client)
        self.assertEqual(client.responses()[0].status, 200)

    def test_a_chunked_body_that_grows_beyond_it(self) -> None:
        """It is refused while it comes, is not forwarded, and what was kept of it is given back."""
        world = self.begin()
        other = self.memory(world).reservation("alice", 2 * MIB)
        client, rest = self.half_sent(world, is_chunked=True)
        other.grow(MIB - self.memory(world).held)
        world.send(rest, client)
        self.assert_no_room(client.responses()[0])
        self.assertEqual(self.upstream.received, [])
        self.assertEqual(self.memory(world).held, other.size)
        other.release()

    def test_a_client_that_leaves(self) -> None:
        world = self.begin()
        client, _ = self.half_sent(world)
        self.assertGreater(self.memory(world).held, 700 * KIB)
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

    def test_announced_and_not_sent(self) -> None:
        """Who announces long bodies and sends nothing of them keeps nobody out."""
        world = PoolWorld(self)
        self.upstream = RawUpstream(world, (SERVED,))
        head = message_request(body=b"").replace(b"Content-Length: 0", b"Content-Length: 67108864")
        for user in (TOKEN, BOB):
            for _ in range(8):
                world.send(head.replace(TOKEN.encode(), user.encode()))
        self.assertEqual(self.memory(world).held, 16 * MIB)
        self.assertEqual(world.answer(PROMPT).status, 200)

    def test_small_requests_always(self) -> None:
        world = self.begin()
        memory = self.memory(world)
        others = [memory.reservation(user, 2 * MIB) for user in ("alice", "bob")]
        for each in others:
            each.grow(MIB)
        for token in (TOKEN, BOB):
            self.assertEqual(world.answer("x" * 60_000, token=token).status, 200)
            self.assert_no_room(world.answer("x" * 70_000, token=token))
        for each in others:
            each.release()

    def test_given_back_before_a_long_refusal_has_ended(self) -> None:
        """The refusal that was held while another account was asked is relayed to its end like any answer."""
        said = b'{"type":"error","error":{"type":"permission_error","message":"' + b"n" * 70_000
        head = b"HTTP/1.1 403 X\r\nContent-Type: application/json\r\nContent-Length: 200000\r\n\r\n"
        world = self.begin(head + said, http_response(403, body=said + b'"}}'))
        client = world.ask(PROMPT)
        self.assertEqual(len(self.upstream.received), 2)
        (response,) = client.responses()
        self.assertEqual((response.status, response.complete), (403, False))
        self.assertEqual(self.memory(world).held, 0)

    def test_the_body_is_dropped(self) -> None:
        """Not only the account of it: an answer may last for hours."""
        world = PoolWorld(self, more=ROOM)
        upstream = ManualUpstream(world)
        client = world.ask(PROMPT)
        (exchange,) = world.entry.forwarder.registry.exchanges
        assert isinstance(exchange, Exchange) and exchange._tries is not None
        self.assertGreater(exchange._tries._body.size, 700 * KIB)
        upstream.last.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        world.network.flush()
        self.assertEqual(exchange._tries._body.size, 0)
        upstream.last.transport.write(b"67890")
        world.network.flush()
        self.assertTrue(client.responses()[0].complete)

    def test_after_a_reload(self) -> None:
        """More may be held from now on; what is held already counts."""
        world = self.begin()
        client, rest = self.half_sent(world)
        self.assert_no_room(world.answer(PROMPT))
        world.reload(world.configuration.replace("max_request_bodies: 2MiB", "max_request_bodies: 4MiB"))
        held = self.memory(world).held
        self.assertGreater(held, 700 * KIB)
        again, again_rest = self.half_sent(world)
        self.assertGreater(self.memory(world).held, held + 700 * KIB)
        for each, missing in ((client, rest), (again, again_rest)):
            world.send(missing, each)
            self.assertEqual(each.responses()[0].status, 200)


class MessageTests(SynchronousTestCase):
    """Messages of WebSockets count while they are not complete, or not passed on."""

    def memory(self, scene: Scene) -> BodyMemory:
        return scene.forwarder.context.bodies

    def begin(self, size: int, is_masked: bool = True, is_last: bool = True, is_first: bool = True) -> bytes:
        """The head of a frame, whose mask changes nothing."""
        first = (0x80 if is_last else 0) | (2 if is_first else 0)
        length = b"\x7e" + size.to_bytes(2, "big") if size < 64 * KIB else b"\x7f" + size.to_bytes(8, "big")
        if not is_masked:
            return bytes((first,)) + length
        return bytes((first, length[0] | 0x80)) + length[1:] + bytes(4)

    def test_a_message_in_pieces(self) -> None:
        scene = Scene(self)
        client, upstream = scene.connected()
        client.transport.write(self.begin(6 * MIB, is_last=False) + b"x" * (6 * MIB))
        scene.settle()
        self.assertEqual(self.memory(scene).held, 6 * MIB)
        client.transport.write(self.begin(3 * MIB, is_first=False) + b"y" * (3 * MIB))
        scene.settle()
        self.assertEqual(upstream.messages, [b"x" * (6 * MIB) + b"y" * (3 * MIB)])
        self.assertEqual(self.memory(scene).held, 0)

    def test_no_room_for_a_clients_message(self) -> None:
        """Its connection is closed with 1013, on which it tries again; the user's other one goes on."""
        scene = Scene(self, options=ProxyOptions(max_bodies=4 * MIB))
        other, other_upstream = scene.connected()
        held = self.memory(scene).reservation("alice", 4 * MIB)
        held.grow(MIB)
        client, upstream = scene.connected()
        client.transport.write(self.begin(2 * MIB) + b"x" * (3 * MIB // 2))
        scene.settle()
        self.assertEqual((client.code, upstream.code), (1013, 1001))
        self.assertEqual(upstream.messages, [])
        self.assertEqual(self.memory(scene).held, held.size)
        client.transport.write(b"x" * (MIB // 2) + self.begin(3 * MIB) + b"y" * (2 * MIB))
        scene.settle()
        self.assertIsNone(client.lost, "it may still be sending when it gets the close")
        self.assertEqual(self.memory(scene).held, held.size)
        self.assertIsNone(other.code)
        other.say(CREATE)
        scene.settle()
        self.assertEqual(other_upstream.messages, [CREATE])
        scene.pass_time(6)
        self.assertEqual(scene.results(), ["too_many_bodies"])
        held.release()

    def test_one_that_never_fits(self) -> None:
        """It is told so, and not to try again later; nothing of it is held, whether it reads that or not."""
        for reads in (True, False):
            scene = Scene(self, options=ProxyOptions(max_bodies=4 * MIB))
            client, upstream = scene.connected()
            if not reads:
                client.transport.pauseProducing()
                for _ in range(4):
                    upstream.say(b"z" * (MIB // 2), False)
                scene.settle()
            client.transport.write(self.begin(3 * MIB) + b"x" * (5 * MIB // 2))
            scene.settle()
            self.assertEqual(upstream.code, 1001)
            if reads:
                self.assertEqual(client.code, 1009)
                client.transport.write(b"x" * MIB)
                scene.settle()
                self.assertIsNone(
                    client.lost, "the rest of the message is dropped, so that it gets the close"
                )
            self.assertLess(self.memory(scene).held, MIB)
            client.transport.abortConnection()
            scene.settle()

    def test_no_room_for_an_upstreams_message(self) -> None:
        """The client is told the same: it is not the upstream that broke the protocol. It is the user's memory."""
        scene = Scene(self, options=ProxyOptions(max_bodies=4 * MIB))
        held = self.memory(scene).reservation("alice", 4 * MIB)
        held.grow(MIB)
        client, upstream = scene.connected()
        upstream.transport.write(self.begin(2 * MIB, is_masked=False) + b"x" * (3 * MIB // 2))
        scene.settle()
        self.assertEqual((client.code, upstream.code), (1013, 1013))
        held.release()

    def test_a_turn_does_not_end_for_a_small_message(self) -> None:
        """However much is held: of the client up to 64 KiB, of the upstream up to 1 MiB."""
        scene = Scene(self, options=ProxyOptions(max_bodies=4 * MIB))
        held = [self.memory(scene).reservation(user, 4 * MIB) for user in ("alice", "bob")]
        for each in held:
            each.grow(2 * MIB)
        client, upstream = scene.connected()
        for size in (1000, 60 * KIB):
            for piece in (self.begin(size) + b"x" * (size // 2), b"x" * (size // 2)):
                client.transport.write(piece)
                scene.settle()
        self.assertEqual([len(each) for each in upstream.messages], [1000, 60 * KIB])
        for piece in (self.begin(MIB, is_masked=False) + b"y" * (MIB - 1), b"y"):
            upstream.transport.write(piece)
            scene.settle()
        self.assertEqual([len(each) for each in client.messages], [MIB])
        for each in held:
            each.release()

    def test_what_the_other_side_does_not_take(self) -> None:
        """A message that has come in pieces counts until it is taken, and is never refused once it is complete."""
        size = 3 * MIB
        scene = Scene(self, options=ProxyOptions(max_bodies=2 * size + 2))
        client, upstream = scene.connected()
        upstream.transport.pauseProducing()
        client.transport.write(self.begin(size) + b"x" * (size - 10))
        scene.settle()
        held = self.memory(scene).reservation("alice", 2 * size + 2)
        held.grow(self.memory(scene).reservation("alice", 2 * size + 2).largest - self.memory(scene).held)
        client.transport.write(b"x" * 10)
        scene.settle()
        self.assertIsNone(client.code)
        self.assertGreater(self.memory(scene).held, size)
        upstream.transport.resumeProducing()
        scene.settle()
        self.assertEqual([len(each) for each in upstream.messages], [size])
        self.assertEqual(self.memory(scene).held, held.size)
        held.release()
        client.say(CREATE)
        scene.settle()
        self.assertEqual(upstream.messages[1:], [CREATE])
