"""What becomes of a session that may be dead, and of one that another has replaced (spec 14)."""

from __future__ import annotations

from typing import Final

from ccmproxy.reverse.carrier import YamuxProtocol

#: Seconds in which the requests on a replaced session must finish. Long enough for any answer of a model.
REPLACED_GRACE: Final = 3600.0
#: Seconds in which the peer of a replaced session must answer a ping. When the address of a peer has changed, the old
#: connection is dead, and the requests on it are to be made elsewhere soon.
REPLACED_ANSWER: Final = 5.0
#: Seconds in which the peer must answer a ping after a change of the network that need not concern the connection. As
#: long as for a keep-alive ping, so that TCP has the time to repeat what was lost.
PING_ANSWER: Final = 10.0


def abort_unless_alive(session: YamuxProtocol, seconds: float) -> None:
    """Abort ``session`` if its peer does not answer a ping within ``seconds``."""
    # The ping also fails when the session ends before the answer; then abort does nothing.
    session.ping().addTimeout(seconds, session.clock).addErrback(lambda _: session.abort())


def drain_replaced(session: YamuxProtocol) -> None:
    """Drain ``session``, which another one has replaced: requests in flight go on to their end, as long as the peer
    answers. New ones go to the other session."""
    session.close(REPLACED_GRACE)
    abort_unless_alive(session, REPLACED_ANSWER)
