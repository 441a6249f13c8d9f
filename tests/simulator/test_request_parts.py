"""Parts of requests, whatever their shape."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.simulator.replies import InvalidRequest
from ccmproxy.simulator.request_parts import (
    decode_object,
    dictionaries,
    forced_tool,
    object_of,
    plain_text,
    schema_of,
)


class PartTests(SynchronousTestCase):
    """Every shape that a client may think of."""

    def test_bodies(self) -> None:
        self.assertEqual(decode_object(b'{"a": 1}', "no JSON", "no object"), {"a": 1})
        self.assertEqual(decode_object('{"a": "\u00e4"}', "no JSON", "no object"), {"a": "\u00e4"})
        for body, sentence in (
            (b"", "no JSON"),
            (b"{", "no JSON"),
            (b'"\xff"', "no JSON"),
            (b"[" * 100_000, "no JSON"),
            (b"[]", "no object"),
            ("5", "no object"),
        ):
            error = self.assertRaises(InvalidRequest, decode_object, body, "no JSON", "no object")
            self.assertEqual(str(error), sentence)

    def test_objects(self) -> None:
        self.assertEqual(dictionaries([{"a": 1}, 5, None, {}]), [{"a": 1}, {}])
        self.assertEqual(object_of({"a": 1}), {"a": 1})
        others: list[object] = [None, 5, "x", ({},)]
        for odd in others:
            self.assertEqual((dictionaries(odd), object_of(odd)), ([], {}))

    def test_text(self) -> None:
        self.assertEqual(plain_text("hi"), "hi")
        self.assertEqual(plain_text([{"text": "one"}, {"type": "image"}, 5, {"text": "two"}]), "one\n\ntwo")
        self.assertEqual(plain_text(None), "")

    def test_schemas(self) -> None:
        schema = {"type": "object"}
        self.assertEqual(schema_of({"type": "json_schema", "schema": schema}), schema)
        within = {"type": "json_schema", "json_schema": {"schema": schema}}
        self.assertEqual(schema_of(within, "json_schema"), schema)
        for odd in (None, {"type": "text", "schema": schema}, {"type": "json_schema"}, within):
            self.assertIsNone(schema_of(odd))
        self.assertIsNone(schema_of({"type": "json_schema", "json_schema": 5}, "json_schema"))

    def test_a_tool_that_is_not_on_offer_is_not_called(self) -> None:
        schemas = {"ls": {"type": "object"}}
        self.assertEqual(forced_tool("ls", schemas), ("ls", {"type": "object"}))
        self.assertIsNone(forced_tool("rm", schemas))
        self.assertIsNone(forced_tool(None, schemas))
