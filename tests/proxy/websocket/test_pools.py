"""WebSockets in a pool: a connection stays on its account, so clients move between two turns (spec 10, F39)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.pool.pool import PoolRules
from ccmproxy.proxy.context import ProxyOptions
from ccmproxy.state.limits import LimitsUpdate, Window
from tests.proxy.websocket.scene import COMPLETED, CREATE, CREATED, START, Scene, event

SESSION = ("session-id", "s1")
#: How an account's connection is told from another's.
A, B = b"Bearer sk-secret-a", b"Bearer sk-secret-b"


class PooledScene(Scene):
    """Two accounts in a pool with the rules of the test."""

    def __init__(self, case: SynchronousTestCase, rules: PoolRules, accounts: int = 2) -> None:
        super().__init__(case, accounts)
        self.provider.reconfigure(self.accounts, rules)

    def weekly(self, account: int, used: float) -> None:
        """Set the utilization of an account's weekly window (percent)."""
        self.accounts[account].observe(LimitsUpdate(weekly=Window(used, START + 86400, 604800.0)))

    @property
    def account_of_last(self) -> bytes | None:
        """The account of the most recent connection."""
        return self.upstream.field("authorization")


class MovingTests(SynchronousTestCase):
    """When a connection leaves its account, and on which account the client continues."""

    def test_a_session_connects_again_to_where_it_was(self) -> None:
        scene = PooledScene(self, PoolRules())
        scene.open(SESSION)
        first = scene.account_of_last
        scene.open(("session-id", "other"))
        self.assertNotEqual(scene.account_of_last, first)
        scene.open(SESSION)
        self.assertEqual(scene.account_of_last, first)

    def test_a_closed_model_moves_the_session(self) -> None:
        """The handshake names no model, but a client that must connect again may not get the same account again."""
        scene = PooledScene(self, PoolRules())
        client = scene.open(SESSION)
        self.assertEqual(scene.account_of_last, A)
        scene.accounts[0].observe(LimitsUpdate(models={"spark": Window(100.0, START + 86400, 604800.0)}))
        client.say(event("response.create", model="gpt-5-spark", input=[]))
        scene.settle()
        self.assertEqual((client.code, scene.upstream.messages), (1012, []))
        again = scene.open(SESSION)
        self.assertEqual(scene.account_of_last, B)
        again.say(event("response.create", model="gpt-5-spark", input=[]))
        scene.settle()
        self.assertEqual(len(scene.upstream.messages), 1)

    def test_a_closed_model_without_a_session(self) -> None:
        """The connection stays: without a session, the next handshake would lead to the same account."""
        scene = PooledScene(self, PoolRules("fallback"))
        scene.accounts[0].observe(LimitsUpdate(models={"spark": Window(100.0, START + 86400, 604800.0)}))
        client = scene.open()
        self.assertEqual(scene.account_of_last, A)
        client.say(event("response.create", model="gpt-5-spark", input=[]))
        scene.settle()
        self.assertEqual((client.code, len(scene.upstream.messages)), (None, 1))

    def test_a_model_closed_everywhere_stays(self) -> None:
        """The connection stays, as another one would not help; the upstream refuses in a format the client knows."""
        scene = PooledScene(self, PoolRules())
        client = scene.open(SESSION)
        for account in scene.accounts:
            account.observe(LimitsUpdate(models={"spark": Window(100.0, START + 86400, 604800.0)}))
        client.say(event("response.create", model="gpt-5-spark", input=[]))
        scene.settle()
        self.assertEqual(len(scene.upstream.messages), 1)

    def test_rebalanced_between_two_turns(self) -> None:
        """A turn in progress may end; the next turn begins on the other account (spec 6.5)."""
        scene = PooledScene(self, PoolRules(rebalance_threshold=20))
        scene.weekly(0, 0.0)
        scene.weekly(1, 50.0)
        client = scene.open(SESSION)
        idle = scene.open(("session-id", "idle"))
        used = [upstream.field("authorization") for upstream in scene.upstreams]
        self.assertEqual(used, [A, A])
        scene.pass_time(61)
        client.say(CREATE)
        scene.settle()
        scene.upstreams[0].say(CREATED)
        # Now the other account is less used, by more than 20 % of a Pro plan.
        scene.weekly(0, 75.0)
        scene.upstreams[0].say(COMPLETED)
        scene.settle()
        self.assertIsNone(client.closed)
        client.say(CREATE)
        scene.settle()
        self.assertEqual((client.code, idle.code), (1012, 1012))
        self.assertEqual(len(scene.upstreams[0].messages), 1)
        scene.open(SESSION)
        self.assertEqual(scene.account_of_last, B)
        lines = [line for line in scene.log if "rebalances" in str(line.get("log_format"))]
        self.assertEqual(len(lines), 1)

    def test_fallback_returns_between_two_turns(self) -> None:
        scene = PooledScene(self, PoolRules("fallback"))
        scene.observe(0, 100.0, START + 60)
        client = scene.open(SESSION)
        self.assertEqual(scene.account_of_last, B)
        scene.pass_time(61)
        self.assertIsNone(client.closed)
        client.say(CREATE)
        scene.settle()
        self.assertEqual(client.code, 1012)
        scene.open(SESSION)
        self.assertEqual(scene.account_of_last, A)

    def test_a_handshake_refused_by_one_is_made_with_another(self) -> None:
        """Spec 4.4 applies to handshakes too: the client sees a single 101."""
        scene = PooledScene(self, PoolRules())
        scene.on_asked = lambda socket: (
            # With a reset: without one it would say nothing of what is left (spec 12.1).
            socket.answer(429, b'{"error": {"type": "usage_limit_reached", "resets_in_seconds": 60}}')
            if socket.field("authorization") == A
            else socket.accept()
        )
        client = scene.open(SESSION)
        self.assertEqual(client.status, 101)
        self.assertEqual(scene.account_of_last, B)
        self.assertFalse(scene.accounts[0].is_usable())

    def test_an_open_connection_counts_as_one_of_the_users(self) -> None:
        scene = Scene(self, 1, ProxyOptions(max_per_user=1))
        client = scene.open()
        refused = scene.open()
        self.assertEqual((client.status, refused.status), (101, 429))
        client.transport.loseConnection()
        scene.settle()
        scene.pass_time(6)
        self.assertEqual(scene.open().status, 101)
