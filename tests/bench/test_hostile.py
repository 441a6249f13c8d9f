"""What the benchmark of hostile bodies sends."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bench.hostile import KINDS
from ccmproxy.http.server.request_head import take_head


class KindTests(SynchronousTestCase):
    """Each kind is framed as HTTP asks, so that it is not refused for another reason than the one measured."""

    def test_framing(self) -> None:
        for kind in KINDS:
            if "MiB" in kind.name and "1 MiB" not in kind.name:
                continue  # the same with more of it
            head, rest = take_head(kind.make(), 0, 64 * 1024) if "fields" not in kind.name else (None, b"")
            if head is not None and head.body_length:
                self.assertEqual(len(rest), head.body_length, kind.name)
