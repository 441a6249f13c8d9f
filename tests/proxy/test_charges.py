"""What a charge teaches the credential that it is charged to (spec 12.1)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.opinions import Charge, ChargeKind
from ccmproxy.proxy.charges import input_of
from ccmproxy.state.holds import Combination
from ccmproxy.state.inputs import AccountRefused, Denied, Input, ModelDenied, Rests

ASKED = Combination("/v1/messages", "claude-opus-4-5", "a,b")
TABLE: tuple[tuple[Charge, Input], ...] = (
    (Charge("a1", ChargeKind.REST), Rests(ASKED, "alice", None)),
    (Charge("a1", ChargeKind.REST, 7.0, "slow down"), Rests(ASKED, "alice", 7.0)),
    (Charge("a1", ChargeKind.DENY, sentence="no"), Denied(ASKED, "alice", "no")),
    (Charge("a1", ChargeKind.MODEL, sentence="not this one"), ModelDenied("claude-opus-4-5")),
    (Charge("a1", ChargeKind.ACCOUNT, sentence="disabled"), AccountRefused("disabled")),
)


class ChargesTests(SynchronousTestCase):
    """A charge is for no more than its kind says."""

    def test_the_table(self) -> None:
        for charge, learnt in TABLE:
            self.assertEqual(input_of(charge, ASKED, "alice"), learnt, charge)

    def test_it_names_every_kind(self) -> None:
        self.assertEqual({charge.kind for charge, _ in TABLE}, set(ChargeKind))
