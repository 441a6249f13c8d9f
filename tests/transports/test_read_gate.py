"""A gate pauses and resumes its transport only when its state changes."""

from __future__ import annotations

from twisted.internet.interfaces import IPushProducer
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.transports.read_gate import ReadGate


@implementer(IPushProducer)
class _Producer:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def pauseProducing(self) -> None:
        self.calls.append("pause")

    def resumeProducing(self) -> None:
        self.calls.append("resume")

    def stopProducing(self) -> None:
        self.calls.append("stop")


class ReadGateTests(SynchronousTestCase):
    """Open at the beginning."""

    def test_only_changes(self) -> None:
        producer = _Producer()
        gate = ReadGate(producer)
        gate.open()
        self.assertEqual((producer.calls, gate.is_open), ([], True))
        gate.close()
        gate.close()
        self.assertEqual((producer.calls, gate.is_open), (["pause"], False))
        gate.open()
        gate.open()
        self.assertEqual((producer.calls, gate.is_open), (["pause", "resume"], True))
