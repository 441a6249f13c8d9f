"""Sessions of yamux: what a peer may send over a reverse connection."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.yamux import SessionConfig
from ccmproxy.yamux.frames import ACK, DATA, FIN, GO_AWAY, PING, RST, SYN, WINDOW_UPDATE
from tests.effort import Effort
from tests.fuzz.mutation import PIECES, mutated, pieces
from tests.profiles import examples
from tests.yamux.sides import Side, frame

FLAGS = st.sampled_from((0, SYN, ACK, FIN, RST, SYN | FIN, SYN | RST, ACK | FIN))
STREAMS = st.sampled_from((0, 1, 2, 3, 5, 2**32 - 1))
FRAMES = st.lists(
    st.one_of(
        st.builds(
            lambda flags, stream, size: frame(DATA, flags, stream, payload=bytes(size)),
            FLAGS,
            STREAMS,
            st.integers(0, 50),
        ),
        st.builds(
            lambda flags, stream, size: frame(WINDOW_UPDATE, flags, stream, size),
            FLAGS,
            STREAMS,
            st.sampled_from((0, 1, 1000, 2**32 - 1)),
        ),
        st.builds(lambda flags: frame(PING, flags, 0, 7), FLAGS),
        st.builds(lambda reason: frame(GO_AWAY, 0, 0, reason), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=12,
).map(b"".join)
_TOKENS = (
    frame(WINDOW_UPDATE, SYN, 9),
    frame(PING, SYN, 0, 1) * 300,
    frame(DATA, 0, 1) * 300,
    b"".join(frame(WINDOW_UPDATE, SYN, 2 * number + 1) for number in range(300)),
    frame(DATA, SYN, 1, 2**31),
)


class SessionTests(SynchronousTestCase):
    """Nothing is raised, the cut does not matter, and what is answered is bounded by what came."""

    def read(self, data: bytes, size: int) -> tuple[list[str], list[str]]:
        """Events and answers."""
        side = Side(SessionConfig(), is_client=False)
        for piece in pieces(data, size):
            side.receive(piece)
        return [
            type(event).__name__ for event in side.events if type(event).__name__ != "DataReceived"
        ], side.says()

    @given(mutated(FRAMES, _TOKENS))
    @examples(200)
    def test_frames(self, data: bytes) -> None:
        with Effort(memory=True) as effort:
            whole = self.read(data, 0)
        self.assertLess(effort.lines, 1000 + 20 * len(data))
        self.assertLess(effort.peak, 500_000 + 200 * len(data))
        self.assertLessEqual(len(whole[1]), len(data) // 12 + 2)
        for size in PIECES:
            self.assertEqual(self.read(data, size), whole)
