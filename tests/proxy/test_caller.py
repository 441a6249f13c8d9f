"""The credentials that a caller sees, and may use."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.proxy.caller import Caller
from tests.proxy.parts import ShownCredential, ShownProvider
from tests.states import NOW


class CallerTests(SynchronousTestCase):
    """With two accounts, one of which is used up, and a remote instance."""

    def setUp(self) -> None:
        self.full = ShownCredential("full", 100.0)
        self.free = ShownCredential("free", 10.0)
        self.remote = ShownCredential("remote", 10.0, is_external=True)
        self.provider = ShownProvider(self.full, self.free, self.remote)

    def test_shown(self) -> None:
        """Spec 8.1: the caller's own remote instance, and remotes that it may not use, are left out."""
        self.assertEqual(Caller("u", self.provider).shown(), [self.full, self.free])
        self.assertEqual(Caller("u", self.provider, True).shown(), [self.full, self.free, self.remote])
        self.assertEqual(Caller("u", self.provider, True, self.remote).shown(), [self.full, self.free])

    def test_can_be_served(self) -> None:
        caller = Caller("u", self.provider)
        self.assertTrue(caller.can_be_served(NOW, None, ()))
        self.assertFalse(caller.can_be_served(NOW, None, {"free"}))
        self.assertTrue(Caller("u", self.provider, True).can_be_served(NOW, None, {"free"}))

    def test_lacking(self) -> None:
        caller = Caller("u", self.provider, True)
        self.assertEqual(caller.lacking(lambda each: each.tag == "free"), {"full", "remote"})
        self.assertEqual(Caller("u", self.provider).lacking(lambda each: True), set())
