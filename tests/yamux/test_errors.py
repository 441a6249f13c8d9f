"""Tests for :mod:`ccmproxy.yamux.errors`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.errors import INTERNAL_ERROR, PROTOCOL_ERROR, CannotOpen, PeerFailed


class ErrorTests(SynchronousTestCase):
    """The messages of the errors."""

    def test_peer_failed(self) -> None:
        said = {code: str(PeerFailed(code)) for code in (PROTOCOL_ERROR, INTERNAL_ERROR, 9)}
        self.assertEqual(
            said,
            {
                1: "the peer ended the session: a protocol error",
                2: "the peer ended the session: an internal error",
                9: "the peer ended the session: unknown code 9",
            },
        )

    def test_cannot_open(self) -> None:
        error = CannotOpen("not now", for_good=False)
        self.assertEqual((str(error), error.for_good), ("not now", False))
