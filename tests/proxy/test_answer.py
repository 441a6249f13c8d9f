"""An answer that is not the client's: what becomes of it and of its lease (spec 12.1)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.retry import LeaseOutcome
from tests.pooled import PoolWorld
from tests.proxy.scripted_upstream import ScriptedUpstream, refusal

#: A refusal whose body goes on and on.
_ENDLESS = (
    b"HTTP/1.1 429 X\r\nContent-Type: application/json\r\nContent-Length: 9000000\r\n\r\n" + b" " * 70000
)


class DropTests(SynchronousTestCase):
    """An account refuses, and another one is asked."""

    def setUp(self) -> None:
        self.world = PoolWorld(self)
        self.upstream = ScriptedUpstream(self.world)

    def outcomes(self) -> list[dict[LeaseOutcome, int]]:
        return [dict(account.outcomes) for account in self.world.accounts]

    def open_connections(self) -> int:
        return sum(not pump.client.disconnected for pump in self.world.upstream.connections)

    def test_a_refusal_that_the_client_does_not_get(self) -> None:
        self.upstream.scripts["a1"] = refusal(429, "slow down")
        self.assertEqual(self.world.served("s"), "a2")
        self.assertEqual(self.upstream.asked(), ["a1", "a2"])
        self.assertEqual(self.outcomes(), [{LeaseOutcome.REFUSED: 1}, {LeaseOutcome.SERVED: 1}])

    def test_the_rest_of_its_body_is_not_read(self) -> None:
        self.upstream.scripts["a1"] = _ENDLESS
        before = self.open_connections()
        self.assertEqual(self.world.served("s"), "a2")
        # That of the dropped answer ended, as its body is not over; that of the served one stays for the next request.
        self.assertEqual(self.open_connections(), before + 1)

    def test_the_client_leaves_while_another_account_is_asked(self) -> None:
        self.upstream.scripts = {"a1": refusal(429, "slow down"), "a2": b""}
        client = self.world.ask(session="s")
        self.assertEqual(self.upstream.asked(), ["a1", "a2"])
        assert client.transport is not None
        client.transport.loseConnection()
        self.world.network.flush()
        self.assertEqual(self.outcomes(), [{LeaseOutcome.CANCELLED: 1}, {LeaseOutcome.CANCELLED: 1}])
        self.assertEqual(self.world.results(), ["client_gone"])
        self.assertTrue(self.world.accounts[0].state.holds.is_empty)
