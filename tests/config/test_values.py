"""Values for use: what two equal configurations have in common, and caps."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import CredentialConfig
from ccmproxy.state.availability import Caps
from tests.config.checking import loaded


class ValueTests(SynchronousTestCase):
    """Config and what is in it."""

    def test_caps(self) -> None:
        self.assertEqual(CredentialConfig("a", "/x", short_cap=90, weekly_cap=80).caps, Caps(90, 80))
        self.assertEqual(CredentialConfig("a", "/x").caps, Caps())

    def test_equal(self) -> None:
        text = "services: [{type: ccm, users: [{name: a, token: t}], headers: {A: b}}]"
        self.assertEqual(loaded(text), loaded(text))
        self.assertNotEqual(loaded(text), loaded(text.replace("token: t", "token: u")))
        self.assertNotEqual(loaded(text), loaded(text.replace("A: b", "A: c")))

    def test_frozen(self) -> None:
        config = loaded("services: [{type: ccm, headers: {A: b}}]")
        with self.assertRaises(FrozenInstanceError):
            config.shutdown_grace = 1  # type: ignore[misc]
        with self.assertRaises(TypeError):
            config.services[0].headers["B"] = ("c",)  # type: ignore[index]
