"""Tests for :mod:`ccmproxy.yamux.admission`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux.admission import Admission
from ccmproxy.yamux.errors import ProtocolError
from ccmproxy.yamux.parameters import Rate, SessionConfig
from ccmproxy.yamux.stream import Stream


class AdmissionTests(SynchronousTestCase):
    """Each limit by itself."""

    def admission(
        self,
        accept_backlog: int = 100,
        max_inbound_streams: int = 100,
        opens: Rate = Rate(100, 1.0),  # noqa: B008 - frozen
        wasted_streams: Rate = Rate(3, 1.0),  # noqa: B008 - frozen
    ) -> Admission:
        """Make an Admission with these limits."""
        config = SessionConfig(
            accept_backlog=accept_backlog,
            max_inbound_streams=max_inbound_streams,
            opens=opens,
            wasted_streams=wasted_streams,
        )
        return Admission(config, 0.0)

    def stream(self, is_inbound: bool = True) -> Stream:
        """Make a stream, opened by the peer unless told otherwise."""
        return Stream(1, is_inbound, 2**18)

    def test_backlog(self) -> None:
        admission = self.admission(accept_backlog=2)
        self.assertEqual([admission.admit(0.0) for _ in range(3)], [True, True, False])
        stream = self.stream()
        admission.accepted(stream)
        admission.accepted(stream)
        self.assertEqual([admission.admit(0.0) for _ in range(2)], [True, False])

    def test_closed_before_it_was_accepted(self) -> None:
        admission = self.admission(accept_backlog=1)
        self.assertTrue(admission.admit(0.0))
        admission.closed(self.stream())
        self.assertTrue(admission.admit(0.0))

    def test_at_the_same_time(self) -> None:
        admission = self.admission(max_inbound_streams=1)
        self.assertTrue(admission.admit(0.0))
        stream = self.stream()
        admission.accepted(stream)
        self.assertFalse(admission.admit(0.0))
        admission.closed(stream)
        self.assertTrue(admission.admit(0.0))

    def test_ours_make_no_room(self) -> None:
        admission = self.admission(max_inbound_streams=1)
        self.assertTrue(admission.admit(0.0))
        admission.closed(self.stream(is_inbound=False))
        self.assertFalse(admission.admit(0.0))

    def test_rate(self) -> None:
        admission = self.admission(opens=Rate(2, 1.0))
        self.assertEqual([admission.admit(0.0) for _ in range(3)], [True, True, False])
        self.assertTrue(admission.admit(1.0))

    def test_going_away(self) -> None:
        admission = self.admission()
        admission.is_closed = True
        self.assertFalse(admission.admit(0.0))

    def test_waste(self) -> None:
        """Refused and reset streams count together; streams of our own do not count."""
        admission = self.admission(max_inbound_streams=0)
        for _ in range(10):
            admission.reset_by_peer(self.stream(is_inbound=False), 0.0)
        admission.admit(0.0)
        admission.reset_by_peer(self.stream(), 0.0)
        admission.admit(0.0)
        self.assertRaises(ProtocolError, admission.admit, 0.5)
        self.assertRaises(ProtocolError, admission.reset_by_peer, self.stream(), 0.5)
        self.assertFalse(admission.admit(1.0))
