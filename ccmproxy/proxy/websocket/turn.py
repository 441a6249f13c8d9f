"""One request within a WebSocket: what is known of it, and the answer to one that its user may not make."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.logger import Logger

from ccmproxy.dialects.websocket_messages import ClientFrame
from ccmproxy.interfaces.facets import IFrames
from ccmproxy.policy.allowed_models import model_refusal
from ccmproxy.proxy.proxied_request import ProxiedRequest

#: A message that is not text: nothing is known of it.
_UNREAD = ClientFrame(is_opaque=True)

_log = Logger()


@dataclass(slots=True)
class Turn:
    """One request within the connection. ``model``, ``unusual_model``: as in a ClientFrame. ``began``: the clock's
    seconds. ``output``: its response has begun."""

    model: str | None
    is_warm_up: bool
    began: float
    output: bool = False
    unusual_model: str = ""


def refused_turn(asked: ProxiedRequest, frames: IFrames, frame: ClientFrame | None) -> bytes | None:
    """Return the message that answers a turn which asks, or may ask, for a model that its user may not have; None where
    the user may (spec 9.6).

    ``frame``: what the client's message means, None if it is not text. Nothing of the message goes to the upstream, and
    the connection goes on. Each turn has to name its model, also where it continues an earlier one: what the upstream
    would go on with is its own affair.
    """
    refusal = model_refusal(asked.caller.models, (frame or _UNREAD).models_asked)
    if refusal is None:
        return None
    _log.info(
        "{request_id} {user} turn refused: {result} (model {model})",
        request_id=asked.id,
        user=asked.caller.name or "-",
        result=refusal.reason,
        model=(frame.model if frame is not None else None) or "-",
    )
    traffic = asked.context.dialect.traffic
    return frames.refusal(*traffic.error(refusal.status, refusal.reason, refusal.message, asked.id))
