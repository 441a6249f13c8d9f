"""Tests for :mod:`ccmproxy.websocket.close_codes`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.websocket.close_codes import is_sendable


class SendableTests(SynchronousTestCase):
    """RFC 6455 section 7.4: some codes are never sent, and others are not assigned."""

    def test_codes(self) -> None:
        sendable = [code for code in range(6000) if is_sendable(code)]
        self.assertEqual(sendable, [1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)])
