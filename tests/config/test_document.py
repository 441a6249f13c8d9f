"""YAML and JSON as values: the core schema, places, and bounds."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config.document import DocumentError, read_document
from tests.profiles import examples

SECRET = "s3cr3t-7e1f9d0b42aa"

#: JSON values that YAML reads in the same way.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=50), inner, max_size=4),
    max_leaves=20,
)


def value(text: str) -> Any:
    """What ``text`` holds, which must be without faults."""
    document = read_document(text)
    assert not document.faults, document.faults
    return document.value


class ScalarTests(SynchronousTestCase):
    """The core schema of YAML 1.2."""

    def test_scalars(self) -> None:
        for text, expected in (
            ("null", None),
            ("~", None),
            ("true", True),
            ("False", False),
            ("no", "no"),
            ("on", "on"),
            ("12:30", "12:30"),
            ("2020-01-02", "2020-01-02"),
            ("0123", 123),
            ("0o17", 15),
            ("0x1F", 31),
            ("-5", -5),
            ("1e3", 1000.0),
            ("1.5", 1.5),
            (".inf", math.inf),
            ("-.Inf", -math.inf),
            ("1_000", "1_000"),
            ("'5'", "5"),
            ('"true"', "true"),
            ("!!str 5", "5"),
            ("!!int '5'", 5),
        ):
            got = value(f"a: {text}")["a"]
            self.assertEqual((got, type(got)), (expected, type(expected)), text)

    def test_not_a_number(self) -> None:
        self.assertTrue(math.isnan(value("a: .nan")["a"]))

    def test_faults(self) -> None:
        for text in (
            "!foo 5",
            "!!int x",
            "!!float x",
            "!!bool x",
            "!!python/object:os.system x",
            "!!set {a}",
            "9" * 5000,
        ):
            document = read_document(f"b: 1\na: {text}")
            (fault,) = document.faults
            self.assertEqual((fault[0], fault[2].line), (("a",), 2), text)

    def test_surrogates(self) -> None:
        self.assertEqual(value('{"a": "\\ud83d\\ude00"}'), {"a": "\U0001f600"})
        self.assertEqual(len(read_document('{"a": "\\ud83d"}').faults), 1)
        self.assertEqual(len(read_document('{"\\ud83d": "a"}').faults), 1)


class StructureTests(SynchronousTestCase):
    """Mappings, lists, anchors, and where they stand."""

    def test_positions(self) -> None:
        document = read_document("services:\n  - type: ccm\n    users: [{name: a}]\n  -\n    type: ocm\n")
        lines = {path: (at.line, at.column) for path, at in document.positions.items()}
        self.assertEqual(
            lines,
            {
                (): (1, 1),
                ("services",): (1, 1),
                ("services", 0): (2, 5),
                ("services", 0, "type"): (2, 5),
                ("services", 0, "users"): (3, 5),
                ("services", 0, "users", 0): (3, 13),
                ("services", 0, "users", 0, "name"): (3, 14),
                ("services", 1): (5, 5),
                ("services", 1, "type"): (5, 5),
            },
        )

    def test_duplicate(self) -> None:
        document = read_document("a: 1\nb: 2\na: 3\n")
        self.assertEqual(document.value, {"a": 1, "b": 2})
        ((path, message, at),) = document.faults
        self.assertEqual((path, message, at.line), (("a",), "is given twice (first in line 1)", 3))

    def test_odd_names(self) -> None:
        self.assertEqual(value("{1: a, null: b, true: c}"), {"1": "a", "null": "b", "true": "c"})
        self.assertEqual(len(read_document("? [a]\n: b").faults), 1)

    def test_anchors_and_merge(self) -> None:
        text = "a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: *x\nd: {<<: [*x, {r: 4, p: 9}]}"
        a = {"p": 1, "q": 2}
        self.assertEqual(value(text), {"a": a, "b": {"p": 1, "q": 3}, "c": a, "d": {"p": 1, "q": 2, "r": 4}})

    def test_merge_of_something_else(self) -> None:
        self.assertEqual(len(read_document("a: {<<: 5}").faults), 1)
        self.assertEqual(len(read_document("a: {<<: [5]}").faults), 1)

    def test_secrets_are_known(self) -> None:
        text = """
        users: [{name: n, token: t1}]
        a: {api_key: t2, password: t3, password: t4}
        headers: {X: [t5, t6], Y: t7}
        """
        self.assertEqual(read_document(text).secrets, {f"t{n}" for n in range(1, 8)})

    def test_nothing(self) -> None:
        for text in ("", "\n", "# a comment\n", "---\n", "\ufeff"):
            self.assertIsNone(value(text))


class JSONTests(SynchronousTestCase):
    """A JSON file is read as JSON means it."""

    def test_tabs(self) -> None:
        text = '{\n\t"services": [\n\t\t{"type":\t"ccm", "tag": "a\\"b"}\n\t]\n}'
        document = read_document(text)
        self.assertEqual(document.value, json.loads(text))
        self.assertEqual(document.positions[("services", 0, "type")].column, 4)

    def test_tabs_in_yaml_are_explained(self) -> None:
        with self.assertRaises(DocumentError) as caught:
            read_document("a:\n\tb: 1")
        self.assertIn("not with tabs", str(caught.exception))

    @examples(200)
    @given(JSON, st.sampled_from([None, 2, "\t"]))
    def test_same_as_json(self, data: Any, indent: int | str | None) -> None:
        text = json.dumps({"a": data}, indent=indent)
        self.assertEqual(value(text), json.loads(text))


class BoundTests(SynchronousTestCase):
    """No file can exhaust the process, and an unreadable one is reported in a sentence."""

    def refused(self, text: str) -> DocumentError:
        """The error for ``text``."""
        with self.assertRaises(DocumentError) as caught:
            read_document(text)
        error: DocumentError = caught.exception
        return error

    def test_alias_bomb(self) -> None:
        levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
        self.assertIn("too many", str(self.refused("\n".join(levels))))

    def test_merge_bomb(self) -> None:
        names = ", ".join(f"k{n}: 1" for n in range(3000))
        self.assertIn(
            "too many", str(self.refused(f"a: &a {{{names}}}\nb: {{<<: [{', '.join(['*a'] * 20)}]}}"))
        )

    def test_cycle(self) -> None:
        self.assertIn("too deeply", str(self.refused("a: &a [*a]")))
        self.assertIn("too deeply", str(self.refused("a: &a {b: *a}")))

    def test_depth(self) -> None:
        for text in ("[" * 5000, "{a: " * 5000, "- " * 5000 + "x", "a: " + "[" * 40 + "]" * 40):
            error = self.refused(text)
            self.assertIn("too deeply", str(error))
            self.assertIsNotNone(error.position)  # found by counting, not by a stack overflow

    def test_chain_of_aliases(self) -> None:
        chain = ["a0: &a0 [x]"] + [f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 500)]
        self.assertIn("too deeply", str(self.refused("\n".join(chain))))

    def test_size(self) -> None:
        self.assertIn("too large", str(self.refused("a: " + "x" * 1_000_000)))

    def test_syntax(self) -> None:
        for text, line, words in (
            ("a: 1\nb: [1,\nc: 2\n", 4, "expected ',' or ']', but got '<stream end>'"),
            ("a: 1\nb: [1,\nc: 2\n", 4, "while parsing a flow sequence that begins in line 2"),
            ("a: 1\n  b: 2\n", 2, "mapping values are not allowed here"),
            ("a: 'x\n", 2, "unexpected end of stream"),
            ("a: 1\nb: \x01\n", 2, "U+0001"),
            ("a: 1\n---\nb: 2\n", 2, "more than one document"),
            ("a: &x 1\nb: &x 2\n", 2, "an anchor is defined twice"),
            ("a: %x", 1, "'%'"),
        ):
            error = self.refused(text)
            self.assertIn(words, str(error))
            assert error.position is not None
            self.assertEqual(error.position.line, line, text)

    def test_syntax_errors_repeat_nothing(self) -> None:
        for text in (
            f"token: *{SECRET}",
            f"token: &{SECRET}x a\nx: &{SECRET}x b",
            f"token: !{SECRET}! x",
            f"token: !{SECRET}!x x",
            f"%TAG !{SECRET}! x\n%TAG !{SECRET}! x\n---\na",
            f"%{SECRET} !\n---",
            f"token: '{SECRET}",
            f'token: "{SECRET}\\q"',
            f"{SECRET}\n{SECRET}: {SECRET}: {SECRET}",
            f"- {SECRET}\n{SECRET}",
            f"token: |{SECRET}",
        ):
            try:
                document = read_document(text)
            except DocumentError as error:
                self.assertNotIn(SECRET, str(error), text)
                self.assertNotIn(SECRET, repr(error.__cause__), text)
            else:
                self.assertNotIn(SECRET, str([message for _, message, _ in document.faults]), text)

    @examples(300)
    @given(st.text(st.sampled_from("ab:-[]{},&*!|>'\"%#?~\n\t \\0.<@`\0\ufeff\ud800"), max_size=40))
    def test_garbage(self, text: str) -> None:
        try:
            read_document(text)
        except DocumentError:
            pass
