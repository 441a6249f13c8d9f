"""Tests of :mod:`ccmproxy.policy.opinions`: conversations of answers to one request, and what follows (spec 12.1)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.policy.answers import AnswerKind, Verdict
from ccmproxy.policy.opinions import (
    MOST_ASKED,
    MOST_REMEMBERED,
    MOST_SERVED,
    MOST_SOUGHT,
    REMEMBERED_TIME,
    SOUGHT_PERIOD,
    Charge,
    ChargeKind,
    Hearing,
    Opinion,
    OpinionMemory,
    RefusalClass,
    Ruling,
    class_of,
    most_sends,
)

OK = Verdict(AnswerKind.OK)
BUSY = Verdict(AnswerKind.BUSY, wait=3.0, sentence="slow down")
ABOUT_REQUEST = Verdict(AnswerKind.BUSY, is_about_request=True)
DENIED = Verdict(AnswerKind.DENIED, sentence="no")
UNAUTHORIZED = Verdict(AnswerKind.AUTH_FAILED, sentence="who?")
STREAM = Verdict(AnswerKind.STREAM_FAILED)
DISABLED = Verdict(AnswerKind.ACCOUNT_REFUSED, sentence="disabled")
NO_MODEL = Verdict(AnswerKind.MODEL_REFUSED, sentence="no such model here")
USED_UP = Verdict(AnswerKind.RATE_LIMITED, until=9.0)
OVERLOADED = Verdict(AnswerKind.OTHER)
TOO_LONG = Verdict(AnswerKind.CLIENT_ERROR)

DELIVER, NEXT, FIRST = Ruling.DELIVER, Ruling.NEXT, Ruling.FIRST


class HearingTestCase(SynchronousTestCase):
    """Conversations: credentials a, b, c, … answer in order."""

    def hear(
        self,
        *verdicts: Verdict,
        identities: str = "",
        keys: str = "",
        may_seek: bool = True,
        nobody_left: bool = False,
    ) -> Hearing:
        """``identities``: a letter per credential, else all differ. ``keys``: tags of those that are no evidence."""
        self.hearing = Hearing(may_seek=may_seek)
        self.rulings = []
        for place, verdict in enumerate(verdicts):
            tag = "abcdefgh"[place]
            identity = identities[place].strip() if identities else tag
            self.rulings.append(self.hearing.heard(Opinion(tag, verdict, identity, tag not in keys)))
        if nobody_left:
            self.is_first_delivered = self.hearing.nobody_left()
        return self.hearing

    def charged(self) -> list[tuple[str, ChargeKind]]:
        return [(charge.tag, charge.kind) for charge in self.hearing.charges]


class ServedElsewhereTests(HearingTestCase):
    """Charged to where the refusal came from, and to nobody else."""

    def test_nothing_happens(self) -> None:
        for verdict in (OK, OVERLOADED, TOO_LONG):
            self.hear(verdict)
            self.assertEqual((self.rulings, self.charged(), self.hearing.first), ([DELIVER], [], None))

    def test_busy_rests(self) -> None:
        self.hear(BUSY, OK)
        self.assertEqual(self.rulings, [NEXT, DELIVER])
        self.assertEqual(self.hearing.charges, [Charge("a", ChargeKind.REST, 3.0, "slow down", "a")])
        self.assertIsNone(self.hearing.about)

    def test_both_that_were_busy_rest(self) -> None:
        self.hear(BUSY, BUSY, OK)
        self.assertEqual(self.rulings, [NEXT, NEXT, DELIVER])
        self.assertEqual(self.charged(), [("a", ChargeKind.REST), ("b", ChargeKind.REST)])

    def test_denials(self) -> None:
        for verdict in (DENIED, UNAUTHORIZED):
            self.hear(verdict, OK)
            self.assertEqual(self.rulings, [NEXT, DELIVER])
            charge = Charge("a", ChargeKind.DENY, sentence=verdict.sentence, identity="a")
            self.assertEqual(self.hearing.charges, [charge], verdict)

    def test_another_login_of_the_same_account_is_not_counted(self) -> None:
        """It is no second opinion (F33), and takes nobody else's turn."""
        hearing = Hearing()
        for tag, identity in (("a", "x"), ("b", "x"), ("c", "y")):
            ruling = hearing.heard(Opinion(tag, DENIED, identity))
            self.assertIs(ruling, NEXT if tag != "c" else FIRST)
        self.assertIs(hearing.about, RefusalClass.DENIED)

    def test_a_broken_stream_is_the_providers(self) -> None:
        self.hear(STREAM, OK)
        self.assertEqual((self.rulings, self.charged()), ([NEXT, DELIVER], []))

    def test_words_about_the_request_charge_nothing(self) -> None:
        self.hear(ABOUT_REQUEST, OK)
        self.assertEqual((self.rulings, self.charged()), ([NEXT, DELIVER], []))

    def test_one_that_says_something_else_is_not_charged(self) -> None:
        self.hear(BUSY, USED_UP, OK)
        self.assertEqual(self.charged(), [("a", ChargeKind.REST)])
        self.hear(BUSY, DENIED, OK)
        self.assertEqual(self.charged(), [("a", ChargeKind.REST)])

    def test_keys_and_remotes_are_no_evidence(self) -> None:
        self.hear(BUSY, OK, keys="b")
        self.assertEqual((self.rulings, self.charged()), ([NEXT, DELIVER], []))
        self.hear(BUSY, OK, keys="a")
        self.assertEqual(self.charged(), [])
        self.hear(DENIED, OK, keys="b")
        self.assertEqual(self.charged(), [])

    def test_the_same_identity_is_no_evidence(self) -> None:
        """F33: two logins of one account."""
        self.hear(BUSY, OK, identities="xx")
        self.assertEqual(self.charged(), [])
        self.hear(BUSY, OK, identities="  ")
        self.assertEqual(self.charged(), [("a", ChargeKind.REST)], "identities that are not known differ")


class AboutRequestTests(HearingTestCase):
    """Refused alike by others: nobody is charged, and the first answer is relayed."""

    def test_as_many_as_its_class_asks_for(self) -> None:
        for verdict, most in ((BUSY, 3), (DENIED, 2), (UNAUTHORIZED, 2), (STREAM, 2)):
            self.hear(*[verdict] * most)
            self.assertEqual(self.rulings, [NEXT] * (most - 1) + [FIRST], verdict)
            self.assertEqual((self.charged(), self.hearing.about), ([], class_of(verdict.kind)))
            self.assertEqual(self.hearing.first, Opinion("a", verdict, "a"))

    def test_fewer_if_there_are_no_more(self) -> None:
        self.hear(BUSY, BUSY, nobody_left=True)
        self.assertTrue(self.is_first_delivered)
        self.assertEqual((self.charged(), self.hearing.about), ([], RefusalClass.BUSY))

    def test_a_single_one_says_nothing(self) -> None:
        self.hear(BUSY, nobody_left=True)
        self.assertTrue(self.is_first_delivered)
        self.assertEqual((self.charged(), self.hearing.about), ([], None))

    def test_nobody_refused(self) -> None:
        self.hear(USED_UP, nobody_left=True)
        self.assertFalse(self.is_first_delivered)

    def test_another_class_is_no_opinion(self) -> None:
        self.hear(DENIED, BUSY)
        self.assertEqual((self.rulings, self.hearing.about), ([NEXT, FIRST], None))
        self.hear(BUSY, DENIED, STREAM)
        self.assertEqual((self.rulings, self.hearing.about), ([NEXT, NEXT, FIRST], None))

    def test_keys_and_the_same_identity_do_not_agree(self) -> None:
        self.hear(DENIED, DENIED, keys="b")
        self.assertEqual((self.rulings, self.hearing.about), ([NEXT, FIRST], None))
        self.hear(DENIED, DENIED, keys="a")
        self.assertIsNone(self.hearing.about)
        self.hear(DENIED, DENIED, identities="xx")
        self.assertIsNone(self.hearing.about)
        self.hear(DENIED, DENIED, identities="  ")
        self.assertIs(self.hearing.about, RefusalClass.DENIED)

    def test_what_is_no_opinion_counts_among_those_asked(self) -> None:
        """Used up, overloaded, too long for another plan: the first answer is relayed in the end."""
        for other in (USED_UP, OVERLOADED, TOO_LONG, Verdict(AnswerKind.REMOTE_BUSY)):
            self.hear(BUSY, other, other)
            self.assertEqual((self.rulings, self.hearing.about), ([NEXT, NEXT, FIRST], None), other)
            self.hear(DENIED, other)
            self.assertEqual((self.rulings, self.hearing.about), ([NEXT, FIRST], None), other)
            self.hear(BUSY, other, BUSY)
            self.assertEqual((self.rulings, self.hearing.about), ([NEXT, NEXT, FIRST], RefusalClass.BUSY))
            self.assertEqual(self.charged(), [])

    def test_used_up_before_does_not_count(self) -> None:
        self.hear(USED_UP, USED_UP, USED_UP, BUSY, BUSY, BUSY)
        self.assertEqual(self.rulings, [NEXT] * 5 + [FIRST])
        first = self.hearing.first
        assert first is not None
        self.assertEqual(first.tag, "d")

    def test_where_none_may_be_sought(self) -> None:
        for verdict in (BUSY, DENIED, UNAUTHORIZED, STREAM):
            self.hear(verdict, may_seek=False)
            self.assertEqual((self.rulings, self.charged(), self.hearing.about), ([FIRST], [], None))


class KnownWordsTests(HearingTestCase):
    """The answer says by itself what it is about: it is charged at once, and others are asked as usual."""

    def test_charged_at_once(self) -> None:
        for verdict, kind in ((DISABLED, ChargeKind.ACCOUNT), (NO_MODEL, ChargeKind.MODEL)):
            self.hear(verdict, may_seek=False)
            self.assertEqual(self.rulings, [NEXT])
            self.assertEqual(
                self.hearing.charges, [Charge("a", kind, sentence=verdict.sentence, identity="a")]
            )
            self.hear(verdict, OK, keys="b")
            self.assertEqual((self.rulings, self.charged()), ([NEXT, DELIVER], [("a", kind)]))

    def test_what_the_next_says_is_its_own(self) -> None:
        for other in (OVERLOADED, TOO_LONG):
            self.hear(DISABLED, other)
            self.assertEqual(self.rulings, [NEXT, DELIVER], other)

    def test_one_request_has_one_account_refused(self) -> None:
        self.hear(DISABLED, DISABLED, DISABLED, nobody_left=True)
        self.assertEqual(self.charged(), [("a", ChargeKind.ACCOUNT)])
        self.assertIsNone(self.hearing.about)
        self.assertTrue(self.is_first_delivered)

    def test_a_denial_may_have_its_account_refused_too(self) -> None:
        """By a pattern over time: so it is charged to one account of a request."""
        self.hear(DISABLED, DENIED, DENIED, OK)
        self.assertEqual(self.charged(), [("a", ChargeKind.ACCOUNT)])
        self.hear(NO_MODEL, DENIED, DENIED, OK)
        self.assertEqual(self.charged(), [("a", ChargeKind.MODEL), ("b", ChargeKind.DENY)])

    def test_every_account_that_has_not_the_model(self) -> None:
        self.hear(NO_MODEL, NO_MODEL, OK)
        self.assertEqual(self.charged(), [("a", ChargeKind.MODEL), ("b", ChargeKind.MODEL)])

    def test_known_words_after_a_bare_refusal_agree_with_it(self) -> None:
        self.hear(DENIED, DISABLED)
        self.assertEqual((self.rulings, self.hearing.about), ([NEXT, FIRST], RefusalClass.DENIED))
        self.assertEqual(self.charged(), [("b", ChargeKind.ACCOUNT)])


kinds = st.sampled_from([kind for kind in AnswerKind if kind is not AnswerKind.NEEDS_BODY])
opinions = st.builds(
    Opinion,
    st.just("?"),
    st.builds(Verdict, kinds, wait=st.none() | st.floats(0, 100), is_about_request=st.booleans()),
    st.sampled_from(["", "x", "y", "z"]),
    st.booleans(),
)


class AnyConversationTests(SynchronousTestCase):
    """Whatever is said, and in whatever order."""

    @given(st.lists(opinions, min_size=1, max_size=12), st.booleans())
    def test_invariants(self, said: list[Opinion], may_seek: bool) -> None:
        hearing = Hearing(may_seek=may_seek)
        heard: list[Opinion] = []
        ruling = NEXT
        asked_since = 0
        for place, each in enumerate(said):
            opinion = Opinion(f"t{place}", each.verdict, each.identity, each.is_evidence)
            before = hearing.first
            ruling = hearing.heard(opinion)
            heard.append(opinion)
            # Another login of the account that was asked first is no other account (F33).
            is_other = before is not None and not (opinion.identity and opinion.identity == before.identity)
            asked_since = 1 if hearing.first is not before else asked_since + is_other
            if ruling is not NEXT:
                break
        if ruling is NEXT:
            self.assertEqual(hearing.nobody_left(), hearing.first is not None)
        first = hearing.first
        refusals = [each for each in heard if class_of(each.verdict.kind) is not None]
        known = (AnswerKind.ACCOUNT_REFUSED, AnswerKind.MODEL_REFUSED)
        # What known words say of one account explains no other refusal: the first of these is what others are asked on.
        unexplained = [each for each in refusals if each.verdict.kind not in known]
        self.assertEqual(first, next(iter((*unexplained, *refusals)), None))

        # It ends: an account's own fault may be found with each, but others are asked for an opinion at most so often.
        if first is not None and first.verdict.kind not in known:
            refusal = class_of(first.verdict.kind)
            assert refusal is not None
            self.assertLessEqual(asked_since, MOST_ASKED[refusal])
            if not may_seek:
                self.assertIs(heard[-1], first)
        if ruling is FIRST:
            self.assertIsNotNone(first)
        if ruling is DELIVER and heard[-1].verdict.kind is not AnswerKind.OK:
            self.assertTrue(first is None or first.verdict.kind in known)

        # Who is charged has refused, and known words or another login stand against it.
        served = heard[-1] if heard[-1].verdict.kind is AnswerKind.OK else None
        by_tag = {each.tag: each for each in heard}
        self.assertEqual(len({(each.tag, each.kind) for each in hearing.charges}), len(hearing.charges))
        for charge in hearing.charges:
            blamed = by_tag[charge.tag]
            if charge.kind in (ChargeKind.ACCOUNT, ChargeKind.MODEL):
                self.assertIn(blamed.verdict.kind, known)
                continue
            self.assertFalse(blamed.verdict.is_about_request)
            assert served is not None
            self.assertTrue(served.is_evidence and blamed.is_evidence)
            self.assertTrue(not served.identity or served.identity != blamed.identity)
        accounts = [each for each in hearing.charges if each.kind in (ChargeKind.ACCOUNT, ChargeKind.DENY)]
        self.assertLessEqual(len(accounts), 1)

        # About the request: nobody is charged for the refusals on which several agree.
        if hearing.about is not None:
            assert first is not None
            self.assertIs(hearing.about, class_of(first.verdict.kind))
            self.assertIsNone(served)
            alike = [each for each in refusals[1:] if class_of(each.verdict.kind) is hearing.about]
            self.assertTrue(any(each.is_evidence and first.is_evidence for each in alike))
            bare = {each.tag for each in heard if each.verdict.kind not in known}
            self.assertEqual([each for each in hearing.charges if each.tag in bare], [])


class SendsTests(SynchronousTestCase):
    def test_most(self) -> None:
        """All sends of one request, for whatever reason."""
        self.assertEqual([most_sends(accounts) for accounts in (0, 1, 2, 6, 7, 100)], [2, 3, 4, 8, 8, 8])


class MemoryTests(SynchronousTestCase):
    """Which second opinions are not sought again."""

    def setUp(self) -> None:
        self.memory = OpinionMemory()

    def may(self, now: float = 0.0, caller: str = "alice", endpoint: str = "/m", model: str = "o") -> bool:
        return self.memory.may_seek(caller, endpoint, model, RefusalClass.BUSY, now)

    def test_not_for_a_minute_after_it_was_about_the_request(self) -> None:
        self.memory.was_about_request("alice", "/m", "o", RefusalClass.BUSY, 0.0)
        self.assertFalse(self.may(REMEMBERED_TIME - 1))
        self.assertTrue(self.may(REMEMBERED_TIME))

    def test_known_for_a_minute(self) -> None:
        def is_known(now: float, caller: str = "alice") -> bool:
            return self.memory.is_about_request(caller, "/m", "o", RefusalClass.BUSY, now)

        self.assertFalse(is_known(0.0))
        self.memory.was_about_request("alice", "/m", "o", RefusalClass.BUSY, 0.0)
        self.assertTrue(is_known(REMEMBERED_TIME - 1))
        self.assertFalse(is_known(REMEMBERED_TIME - 1, "bob"))
        self.assertFalse(is_known(REMEMBERED_TIME))

    def test_the_like_of_it_only(self) -> None:
        self.memory.was_about_request("alice", "/m", "o", RefusalClass.BUSY, 0.0)
        self.assertTrue(self.may(caller="bob"))
        self.assertTrue(self.may(endpoint="/n"))
        self.assertTrue(self.may(model="p"))
        self.assertTrue(self.memory.may_seek("alice", "/m", "o", RefusalClass.DENIED, 0.0))
        self.assertFalse(self.may())

    def test_found_again_it_lasts_longer(self) -> None:
        for now in (0.0, 30.0):
            self.memory.was_about_request("alice", "/m", "o", RefusalClass.BUSY, now)
        self.assertFalse(self.may(89.0))

    def test_models_that_are_served(self) -> None:
        self.assertFalse(self.memory.has_served("m0"))
        for number in range(MOST_SERVED):
            self.memory.was_served(f"m{number}")
            self.memory.was_served(f"m{number}")
        self.assertTrue(self.memory.has_served("m0"))
        self.assertFalse(self.memory.has_served(None))
        self.memory.was_served("one more")
        self.assertEqual(
            [self.memory.has_served(each) for each in ("m0", "m1", "one more")], [False, True, True]
        )

    def test_six_a_minute_for_a_caller(self) -> None:
        self.assertEqual([self.may(float(now)) for now in range(8)], [True] * MOST_SOUGHT + [False] * 2)
        self.assertTrue(self.may(7.0, caller="bob"))
        self.assertTrue(self.may(SOUGHT_PERIOD))
        self.assertFalse(self.may(SOUGHT_PERIOD + 0.5), "only the first is a minute ago")

    def test_what_is_known_to_be_about_the_request_costs_none(self) -> None:
        self.memory.was_about_request("alice", "/m", "o", RefusalClass.BUSY, 0.0)
        for _ in range(20):
            self.assertFalse(self.may(1.0))
        self.assertTrue(self.may(1.0, model="p"))

    def test_a_clock_that_is_set_back_locks_nobody_out(self) -> None:
        self.memory.was_about_request("alice", "/m", "o", RefusalClass.BUSY, 1000.0)
        for _ in range(MOST_SOUGHT):
            self.may(1000.0, model="p")
        self.assertTrue(self.may(0.0))

    def test_bounded(self) -> None:
        """F23: models are the client's to choose."""
        for number in range(MOST_REMEMBERED + 1):
            self.memory.was_about_request("alice", "/m", f"m{number}", RefusalClass.BUSY, 0.0)
        self.assertTrue(self.may(model="m0"))
        self.assertFalse(self.may(model="m1"))
        self.assertEqual(len(self.memory._about_request), MOST_REMEMBERED)
