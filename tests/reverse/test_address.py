"""Tests for :mod:`ccmproxy.reverse.address`."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IAddress
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.reverse.address import StreamAddress

CARRIER = IPv4Address("TCP", "192.0.2.1", 443)


class StreamAddressTests(SynchronousTestCase):
    """An address has two parts, the carrier's address and the stream id."""

    def test_is_an_address(self) -> None:
        address = StreamAddress(CARRIER, 3)
        self.assertTrue(verifyObject(IAddress, address))
        self.assertEqual((address.host, str(address)), ("192.0.2.1", f"stream 3 of {CARRIER}"))

    def test_carrier_without_host(self) -> None:
        self.assertEqual(StreamAddress(UNIXAddress("/x"), 1).host, "")

    def test_equal(self) -> None:
        self.assertEqual(StreamAddress(CARRIER, 3), StreamAddress(CARRIER, 3))
        self.assertNotEqual(StreamAddress(CARRIER, 3), StreamAddress(CARRIER, 5))
