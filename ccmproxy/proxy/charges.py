"""From what is charged for a refusal to what its credential learns (spec 12.1)."""

from __future__ import annotations

from ccmproxy.policy.opinions import Charge, ChargeKind
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import AccountRefused, Denied, Input, ModelDenied, Rests


def input_of(charge: Charge, asked: Combination, caller: str) -> Input:
    """The input for the charged credential's state. ``asked``: by the request; ``caller``: the user's name."""
    match charge.kind:
        case ChargeKind.REST:
            return Rests(asked, caller, charge.wait)
        case ChargeKind.DENY:
            return Denied(asked, caller, charge.sentence)
        case ChargeKind.MODEL:
            return ModelDenied(asked.model)
        case ChargeKind.ACCOUNT:
            return AccountRefused(charge.sentence)
