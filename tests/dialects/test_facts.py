"""Facts about a request: what is not known is None, and nothing is assumed."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.facts import (
    LONGEST_UNUSUAL_NAME,
    RequestFacts,
    header_key,
    printable_key,
    unusual_name,
)
from ccmproxy.http.message import Headers
from ccmproxy.policy.allowed_models import ModelsAsked, ModelUse


class RequestFactsTests(SynchronousTestCase):
    """The value itself."""

    def test_nothing_is_assumed(self) -> None:
        facts = RequestFacts()
        self.assertEqual((facts.model, facts.session, facts.stream, facts.messages), (None, None, None, None))
        self.assertEqual(facts.features, ())
        self.assertFalse(facts.client_is_oauth)

    def test_the_handshake_for_a_model_endpoint_is_for_models_too(self) -> None:
        self.assertTrue(RequestFacts(billable=True).is_for_models)
        self.assertTrue(RequestFacts(billable=False, operation="responses").is_for_models)
        self.assertFalse(RequestFacts(billable=False).is_for_models)

    def test_what_is_asked_of_models(self) -> None:
        """Where nothing was found out, it may ask for any."""
        self.assertEqual(RequestFacts().models_asked, ModelsAsked(ModelUse.ALWAYS))
        facts = RequestFacts("a", is_opaque=True, use=ModelUse.IF_NAMED, names=("b", "a"))
        self.assertEqual(facts.models_asked, ModelsAsked(ModelUse.IF_NAMED, ("b", "a"), True, True))

    def test_frozen(self) -> None:
        with self.assertRaises(AttributeError):
            RequestFacts().model = "other"  # type: ignore[misc]

    def test_the_model_as_it_was_named(self) -> None:
        for name, model, unusual in (
            ("m", "m", ""),
            ("two  words\n", None, "two words"),
            ("x" * 201, None, "x" * 201),
            ("", None, ""),
            (None, None, ""),
            (" " * 2 * LONGEST_UNUSUAL_NAME, None, ""),
        ):
            facts = RequestFacts(model=printable_key(name), unusual_model=unusual_name(name))
            self.assertEqual((facts.model, facts.unusual_model), (model, unusual))
            self.assertEqual(facts.named_model, model or unusual)
        self.assertEqual(len(unusual_name("x" * 2 * LONGEST_UNUSUAL_NAME)), LONGEST_UNUSUAL_NAME)


class KeyTests(SynchronousTestCase):
    """Ids in header fields."""

    def test_the_first_that_can_be_one(self) -> None:
        headers: Headers = [(b"A", b""), (b"B", b"two words"), (b"C", b" c "), (b"D", b"d")]
        self.assertEqual(header_key(headers, b"a", b"b", b"c", b"d"), "c")
        self.assertEqual(header_key(headers, b"d", b"c"), "d")
        for name in (b"a", b"b", b"x"):
            self.assertIsNone(header_key(headers, name))
        self.assertIsNone(header_key([(b"a", b"x" * 201)], b"a"))
