"""What commands print to."""

from __future__ import annotations

import io

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.surfaces.cli.terminal import Terminal


class Flushed(io.StringIO):
    """Counts how often it was flushed."""

    flushes = 0

    def flush(self) -> None:
        self.flushes += 1


class TerminalTests(SynchronousTestCase):
    """Two streams, each line flushed at once, because somebody may be watching."""

    def test_lines(self) -> None:
        out, err = Flushed(), Flushed()
        terminal = Terminal(out, err)
        terminal.say("asked for")
        terminal.complain("wrong")
        self.assertEqual((out.getvalue(), err.getvalue()), ("asked for\n", "wrong\n"))
        self.assertEqual((out.flushes, err.flushes), (1, 1))
