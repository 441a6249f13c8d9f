"""Tests for :mod:`ccmproxy.dialects.websocket_messages`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.websocket_messages import ClientFrame
from ccmproxy.policy.allowed_models import ModelsAsked, ModelUse


class ClientFrameTests(SynchronousTestCase):
    """What decides whether a user may ask for the model of a message."""

    def test_a_turn(self) -> None:
        frame = ClientFrame(True, model="a", names=("b", "a"))
        self.assertEqual(frame.models_asked, ModelsAsked(ModelUse.ALWAYS, ("b", "a"), is_named=True))

    def test_a_turn_without_a_name(self) -> None:
        self.assertEqual(ClientFrame(True).models_asked, ModelsAsked(ModelUse.ALWAYS))

    def test_what_begins_no_turn(self) -> None:
        self.assertIs(ClientFrame(names=("a",)).models_asked.use, ModelUse.IF_NAMED)

    def test_what_could_not_be_read(self) -> None:
        self.assertTrue(ClientFrame(is_opaque=True).models_asked.is_hidden)
