"""Tests for :mod:`ccmproxy.reverse.stream_errors`."""

from __future__ import annotations

from twisted.internet.error import ConnectError, ConnectionAborted, ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.reverse.stream_errors import SessionLost, StreamAborted, StreamNotOpened


class ErrorTests(SynchronousTestCase):
    """Subclasses of Twisted's errors, whose ``str()`` is their message."""

    def test_kinds_and_words(self) -> None:
        for kind, base in (
            (SessionLost, ConnectionLost),
            (StreamAborted, ConnectionAborted),
            (StreamNotOpened, ConnectError),
        ):
            error = kind("the reason")
            self.assertIsInstance(error, base)
            self.assertEqual(str(error), "the reason")
