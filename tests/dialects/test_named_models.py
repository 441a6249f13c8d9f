"""Tests for :mod:`ccmproxy.dialects.named_models`."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.named_models import (
    MOST_ESCAPES,
    MOST_QUICK_TOKENS,
    MOST_TOKENS,
    TooManyTokens,
    is_plain_json,
    named_models,
    with_models,
)
from ccmproxy.dialects.request_documents import NotQuick
from ccmproxy.policy.allowed_models import ModelUse
from tests.profiles import examples

JSON_TYPE = (b"Content-Type", b"application/json")


class Pairs(list[tuple[str, Any]]):
    """An object with all of its members, those included that have the same name."""


def expected(document: bytes) -> list[str | None]:
    """The names that a reader finds which takes all members of an object."""
    found: list[str | None] = []

    def take(members: Any) -> None:
        for key, value in members if isinstance(members, Pairs) else ():
            if key.lower() == "model":
                found.append(value if isinstance(value, str) else None)

    def within(value: Any, levels: int) -> None:
        if levels == 0:
            take(value)
        elif isinstance(value, Pairs):
            for _, each in value:
                within(each, levels - 1)
        elif isinstance(value, list):
            for each in value:
                within(each, levels - 1)

    for key, value in json.loads(document, object_pairs_hook=Pairs):
        if key.lower() == "model":
            found.append(value if isinstance(value, str) else None)
        elif key.lower() == "response":
            within(value, 0)
        elif key.lower() in ("tools", "fallbacks"):
            within(value, 1)
    return found


def written(value: Any, spell: Any) -> str:
    """JSON with members in any number and spelling. ``spell`` draws how a key is written."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{spell(key)} :{written(each, spell)}" for key, each in value["pairs"]) + "}"
    if isinstance(value, list):
        return "[" + ",".join(written(each, spell) for each in value) + "]"
    return json.dumps(value)


KEYS = st.sampled_from(
    ["model", "Model", "tools", "TOOLS", "response", "fallbacks", "x", 'a"model', "model\\"]
)
LEAVES = st.sampled_from(["m", 'say "model": "x"', "\\", '\\"', "model", "{", "]", "ä", 5, 1.5, None, True])


def objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Objects, as the list of their members."""
    return st.fixed_dictionaries({"pairs": st.lists(st.tuples(KEYS, values), max_size=4)})


DOCUMENTS = objects(
    st.recursive(LEAVES, lambda values: objects(values) | st.lists(values, max_size=3), max_leaves=12)
)


class NameTests(SynchronousTestCase):
    """Every name that a document gives for a model."""

    def named(self, text: str, model: str | None = "a") -> list[str | None]:
        """What ``text`` names."""
        return list(named_models(text.encode(), model))

    def test_one(self) -> None:
        self.assertEqual(self.named('{"model": "a", "x": "the \\"model\\": of"}'), ["a"])
        self.assertEqual(self.named('{"x": {"model": "b"}, "model": "a", "y": [{"model": "c"}]}'), ["a"])
        self.assertEqual(self.named('{"x": 1}', None), [])

    def test_twice(self) -> None:
        """Which of the two a provider takes is not known."""
        self.assertEqual(self.named('{"model": "b", "model": "a"}'), ["b", "a"])
        self.assertEqual(self.named('{"model": ["b"], "model": "a"}'), [None, "a"])
        self.assertEqual(self.named('{"model": "a", "model": null}', None), ["a", None])
        self.assertEqual(self.named('{"model": 5, "x": "b"}', None), [None])

    def test_spelt_otherwise(self) -> None:
        for key in ("mod\\u0065l", "\\u006dodel", "MODEL", "m\\u004fdel", "mo\\u0064el", "mode\\u006C"):
            self.assertEqual(self.named(f'{{"{key}": "b", "model": "a"}}'), ["b", "a"], key)
            self.assertEqual(self.named(f'{{"{key}": "b"}}', None), ["b"], key)

    def test_in_other_places(self) -> None:
        self.assertEqual(
            self.named('{"model": "a", "tools": [{"type": "advisor", "model": "b"}]}'), ["a", "b"]
        )
        self.assertEqual(self.named('{"model": "a", "response": {"model": "b"}}'), ["a", "b"])
        self.assertEqual(self.named('{"fallbacks": [{"model": "b"}], "model": "a"}'), ["b", "a"])
        schema = '{"model": "a", "tools": [{"input_schema": {"properties": {"model": {"type": "string"}}}}]}'
        self.assertEqual(self.named(schema), ["a"])

    @given(DOCUMENTS, st.data())
    @examples(500)
    def test_like_a_reader_that_takes_all(self, value: Any, data: st.DataObject) -> None:
        def spell(key: str) -> str:
            escaped = data.draw(st.booleans())
            return '"' + "".join(f"\\u{ord(each):04x}" for each in key) + '"' if escaped else json.dumps(key)

        document = written(value, spell).encode()
        top = [each for key, each in json.loads(document, object_pairs_hook=Pairs) if key == "model"]
        model = top[-1] if top and isinstance(top[-1], str) else None
        found = named_models(document, model)
        self.assertEqual(list(found), expected(document), document)

    def test_much(self) -> None:
        pair = b'"model":"a",'
        many = b"{" + pair * (MOST_QUICK_TOKENS // 4) + b'"model":"a"}'
        self.assertEqual(len(named_models(many, "a")), MOST_QUICK_TOKENS // 4 + 1)
        self.assertRaises(NotQuick, named_models, many, "a", True)
        brackets = b'{"x":[' + b"[]," * (MOST_TOKENS // 2) + b'[]],"model":"a","model":"a"}'
        self.assertRaises(TooManyTokens, named_models, brackets, "a")
        escapes = b'{"x":"' + b"\\n" * (MOST_ESCAPES + 1) + b'","model":"a","model":"a"}'
        self.assertRaises(TooManyTokens, named_models, escapes, "a")
        few = b'{"x":"' + b"\\n" * 700_000 + b'","model":"a","model":"a"}'
        self.assertRaises(NotQuick, named_models, few, "a", True)


class HeaderTests(SynchronousTestCase):
    """Header fields by which everybody reads the same."""

    def test_plain(self) -> None:
        for value in (
            b"application/json",
            b"Application/JSON",
            b"application/json; charset=utf-8",
            b'application/json;charset="UTF-8"',
            b"application/vnd.api+json",
        ):
            self.assertTrue(is_plain_json([(b"content-type", value)]), value)
        self.assertTrue(is_plain_json([]))
        self.assertTrue(is_plain_json([JSON_TYPE, (b"Content-Encoding", b"zstd")]))

    def test_not_plain(self) -> None:
        for value in (
            b"application/json; charset=utf-7",
            b"application/json; charset=utf-16",
            b"text/plain",
            b"multipart/form-data; boundary=application/json",
            b"application/x-www-form-urlencoded",
            b"",
        ):
            self.assertFalse(is_plain_json([(b"content-type", value)]), value)
        self.assertFalse(is_plain_json([JSON_TYPE, (b"content-type", b"application/json")]))
        coded = [(b"Content-Encoding", b"identity"), (b"content-encoding", b"deflate")]
        self.assertFalse(is_plain_json([JSON_TYPE, *coded]))


class FactTests(SynchronousTestCase):
    """The facts of a request with what it asks for."""

    def facts(self, document: bytes, use: ModelUse = ModelUse.ALWAYS, **others: Any) -> RequestFacts:
        """The facts about a body that holds this document."""
        known = RequestFacts(model="a", **others)
        return with_models(known, [JSON_TYPE], len(document), document, use, False)

    def test_names(self) -> None:
        facts = self.facts(b'{"model": "b", "model": "a"}')
        self.assertEqual((facts.use, facts.names, facts.is_opaque), (ModelUse.ALWAYS, ("b", "a"), False))

    def test_without_a_body(self) -> None:
        self.assertIs(self.facts(b"", billable=False).use, ModelUse.NONE)
        self.assertIs(self.facts(b"", billable=True).use, ModelUse.ALWAYS)

    def test_not_read(self) -> None:
        facts = with_models(RequestFacts(is_opaque=True), [JSON_TYPE], 5, b"", ModelUse.IF_NAMED, False)
        self.assertTrue(facts.is_opaque)
        self.assertIs(facts.use, ModelUse.IF_NAMED)

    def test_what_others_may_read_otherwise(self) -> None:
        fields = [(b"content-type", b"text/plain")]
        document = b'{"model": "a"}'
        facts = with_models(RequestFacts("a"), fields, len(document), document, ModelUse.ALWAYS, False)
        self.assertTrue(facts.is_opaque)

    def test_too_much(self) -> None:
        document = b'{"x":[' + b"[]," * (MOST_TOKENS // 2) + b'[]],"model":"a","model":"a"}'
        self.assertTrue(self.facts(document).is_opaque)
