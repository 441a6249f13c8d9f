"""Random mixtures of events: clients come and go, upstreams fail, tokens expire, windows fill up."""

from __future__ import annotations

import os
import random

from twisted.trial.unittest import SynchronousTestCase

from tests.conversation import Client, World

FAULTS = (
    "none",
    "none",
    "slow;seconds=3",
    "stall;at=mid;seconds=4",
    "hang",
    "cut;at=mid",
    "cut;at=before_head;how=fin",
    "half_head",
    "garbage",
    "rate_limited",
    "rate_limited;retry_after=30",
    "exhausted",
    "overloaded",
    "unauthorized",
    "revoked",
    "forbidden",
    "error_first",
    "error_mid",
    "truncated",
    "random_pieces",
    "gzip",
    "html",
    "empty",
)
TOKEN_FAULTS = (
    "none",
    "slow;seconds=2",
    "unavailable",
    "rate_limited",
    "hang",
    "nonsense",
    "cut;at=before_head",
)


class MixedTests(SynchronousTestCase):
    """Invariants that hold at the end of any history; World.close checks that nothing is left open."""

    def test_any_order(self) -> None:
        """No request hangs, no lease or exchange is left, nothing raises, and the next request is served."""
        for seed in range(12):
            self.hold(seed)
            self.doCleanups()

    def hold(self, seed: int) -> None:
        """Run one random conversation."""
        rng = random.Random(seed)
        world = World(self)
        waiting: list[Client] = []
        for _ in range(60):
            match rng.randrange(14):
                case 0 | 1 | 2 | 3 | 4:
                    fault = rng.choice(FAULTS)
                    waiting.append(
                        world.ask(f"[[tokens:40]] [[simulate:{fault}]]", stream=rng.random() < 0.7)
                    )
                case 5 | 6 | 7:
                    world.network.advance(rng.choice((0, 0.1, 1, 5, 70)))
                case 8 if waiting:
                    client = rng.choice(waiting)
                    if client.transport is not None and not client.broken:
                        client.transport.loseConnection()
                        world.network.flush()
                case 9:
                    world.simulator.faults.next(rng.choice(TOKEN_FAULTS), endpoint="token")
                    world.login.expire_access_token()
                    world.write_login()
                case 10:
                    world.login.exhaust(rng.choice(("five_hour", "seven_day")), rng.choice((5, 60)))
                case 11:
                    world.upstream.refusing = rng.random() < 0.5
                case 12:
                    if os.path.exists(world.path) and rng.random() < 0.5:
                        os.remove(world.path)
                    else:
                        world.write_login()
                case 13:
                    world.simulator.faults.next(rng.choice(TOKEN_FAULTS), endpoint="usage")
        # Everything ends within the longest time-out, which is the one for the first byte.
        world.simulator.faults.clear()
        world.upstream.refusing = False
        world.login.log_in()
        world.write_login()
        for _ in range(260):
            world.network.advance(5)
        for client in waiting:
            if not client.broken:
                self.assertTrue(client.responses() and client.responses()[0].complete, seed)
        self.assertEqual(len(world.results()), len(waiting), seed)
        self.assertEqual(world.account.in_flight, 0, seed)
        self.assertEqual(self.flushLoggedErrors(), [], seed)
        world.login.reset()
        world.network.advance(7 * 3600)
        world.network.advance(5)
        world.network.advance(5)
        self.assertEqual(world.answer().status, 200, seed)
