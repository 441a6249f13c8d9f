"""Tests for :mod:`ccmproxy.yamux.keepalive`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.keepalive import KeepAlive
from ccmproxy.yamux.parameters import Rate


class KeepAliveTests(SynchronousTestCase):
    """Keep-alive pings every 15 seconds, with 10 seconds to answer."""

    def setUp(self) -> None:
        self.keepalive = KeepAlive(15.0, 10.0, Rate(3, 0.5), 100.0)

    def test_from_the_answer_to_the_next_question(self) -> None:
        self.assertEqual((self.keepalive.deadline, self.keepalive.is_asking), (115.0, False))
        number = self.keepalive.ask(115.0)
        self.assertEqual((self.keepalive.deadline, self.keepalive.is_asking), (125.0, True))
        self.assertIsNone(self.keepalive.answered(number, 122.0))
        self.assertEqual((self.keepalive.deadline, self.keepalive.is_asking), (137.0, False))

    def test_pings_of_the_owner(self) -> None:
        self.assertEqual([self.keepalive.ping(101.0), self.keepalive.ping(102.0)], [0, 1])
        self.assertEqual(self.keepalive.answered(1, 104.5), 2.5)
        self.assertEqual(self.keepalive.answered(0, 104.5), 3.5)
        self.assertEqual(self.keepalive.deadline, 115.0)

    def test_answers_to_nothing(self) -> None:
        number = self.keepalive.ask(115.0)
        self.assertIsNone(self.keepalive.answered(number + 1, 116.0))
        self.assertTrue(self.keepalive.is_asking)
        self.keepalive.answered(number, 116.0)
        self.assertIsNone(self.keepalive.answered(number, 120.0))
        self.assertEqual(self.keepalive.deadline, 131.0)

    def test_pings_of_the_peer(self) -> None:
        for now in (100.0, 100.0, 101.0, 102.0):
            self.keepalive.requested(now)
        with self.assertRaises(ProtocolError):
            self.keepalive.requested(102.0)
        self.assertEqual(self.keepalive.deadline, 115.0)

    def test_numbers_begin_again(self) -> None:
        self.keepalive._next = 2**32 - 1
        self.assertEqual([self.keepalive.ping(1.0), self.keepalive.ping(1.0)], [2**32 - 1, 0])

    def test_stopped(self) -> None:
        self.keepalive.ask(115.0)
        self.keepalive.stop()
        self.assertEqual((self.keepalive.deadline, self.keepalive.is_asking), (float("inf"), False))
