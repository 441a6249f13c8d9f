"""Words that say what a refusal is about, and those that a client put there itself (spec 12.1)."""

from __future__ import annotations

import time
from typing import Any
from urllib.parse import quote, quote_plus

from hypothesis import assume, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.refusal_words import REFUSAL_WORDS as CLAUDE
from ccmproxy.dialects.codex.refusal_words import REFUSAL_WORDS as CODEX
from ccmproxy.dialects.known_words import (
    LONGEST_SENTENCE,
    Found,
    KnownWords,
    Meaning,
    echo_of,
    find_words,
    row,
    sentence_of,
    shortened,
)
from ccmproxy.http.message import RequestHead

TABLE = (
    row((403,), ("error.message",), "This organization has been disabled", Meaning.ACCOUNT_REFUSED, "s"),
    row((400,), ("detail",), "The * model is not supported", Meaning.MODEL_REFUSED, "s"),
    row((402, 403), ("detail.code", "error.code"), "deactivated_workspace", Meaning.ACCOUNT_REFUSED, "s"),
)


def told(message: str) -> dict[str, Any]:
    """An error with this sentence."""
    return {"error": {"message": message}}


class FindTests(SynchronousTestCase):
    """What counts."""

    def test_status_field_and_sentence(self) -> None:
        found = Found(Meaning.ACCOUNT_REFUSED, "This organization has been disabled.")
        self.assertEqual(find_words(TABLE, 403, told("This organization has been disabled.")), found)
        for status, document in (
            (400, told("This organization has been disabled.")),
            (403, {"message": "This organization has been disabled."}),
            (403, {"error": "This organization has been disabled."}),
            (403, {"error": {"code": "This organization has been disabled."}}),
            (400, {"detail": {"code": "deactivated_workspace"}}),
        ):
            self.assertIsNone(find_words(TABLE, status, document), document)

    def test_case_space_and_a_full_stop_do_not_matter(self) -> None:
        for said in ("this ORGANIZATION  has\nbeen disabled", " This organization has been disabled... "):
            self.assertIsNotNone(find_words(TABLE, 403, told(said)), said)

    @given(st.text(min_size=1, max_size=20), st.text(max_size=20))
    def test_only_whole_sentences(self, before: str, after: str) -> None:
        assume(before.strip(" \t\r\n\f\v"))
        words = "This organization has been disabled"
        self.assertIsNone(find_words(TABLE, 403, told(before + words + after)))
        assume(after.strip(" \t\r\n\f\v."))
        self.assertIsNone(find_words(TABLE, 403, told(words + after)))

    def test_letters_that_only_look_alike_are_others(self) -> None:
        """A client's header and the answer would differ in bytes, and be equal in lower case."""
        table = (row((403,), ("error.message",), "token is gone", Meaning.ACCOUNT_REFUSED, "s"),)
        self.assertIsNotNone(find_words(table, 403, told("Token is gone")))
        self.assertIsNone(find_words(table, 403, told("To\u212aen is gone")))
        self.assertIsNone(find_words(table, 403, told("Token\u00a0is gone")))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["error", "message", "detail", "code", "x"]), inner, max_size=3
                )
            ),
            max_leaves=8,
        )
    )
    def test_garbage_raises_nothing(self, document: object) -> None:
        self.assertIsNone(find_words((*TABLE, *CLAUDE, *CODEX), 403, document))
        sentence_of(document)

    def test_long_values_cost_little(self) -> None:
        """Wildcards backtrack: a value that nearly fits is the worst."""
        table = (row((400,), ("detail",), "a * a * b c", Meaning.MODEL_REFUSED, "s"),)
        began = time.perf_counter()
        for value in ("a " * 1000, "a " * 5_000_000, "a" * 2000):
            self.assertIsNone(find_words(table, 400, {"detail": value}))
        self.assertLess(time.perf_counter() - began, 2.0)

    def test_a_value_that_is_too_long_is_no_sentence(self) -> None:
        self.assertIsNotNone(
            find_words(TABLE, 403, told("This" + " " * 900 + "organization has been disabled"))
        )
        self.assertIsNone(
            find_words(TABLE, 403, told("This" + " " * 2000 + "organization has been disabled"))
        )

    def test_a_wildcard_stands_for_a_bounded_text(self) -> None:
        self.assertIsNotNone(find_words(TABLE, 400, {"detail": f"The {'x' * 200} model is not supported"}))
        self.assertIsNone(find_words(TABLE, 400, {"detail": f"The {'x' * 201} model is not supported"}))

    def test_a_row_has_words_and_few_wildcards(self) -> None:
        for sentence in ("", " * ", "a * b * c * d"):
            self.assertRaises(ValueError, row, (400,), ("detail",), sentence, Meaning.REQUEST, "s")


def spellings(words: str) -> st.SearchStrategy[str]:
    """``words`` as a client may write it, and a provider repeat it so that it reads the same."""
    spaced = st.sampled_from([" ", "  ", "\t"]).map(lambda space: words.replace(" ", space))
    return st.tuples(spaced, st.booleans()).map(lambda said: said[0].upper() if said[1] else said[0])


ANY_ROW = st.sampled_from([*TABLE, *CLAUDE, *CODEX])


class EchoTests(SynchronousTestCase):
    """A client's own words never count, wherever it put them."""

    @given(ANY_ROW.flatmap(lambda known: st.tuples(st.just(known), spellings(known.sentence))), st.data())
    def test_words_of_the_request(self, case: tuple[KnownWords, str], data: st.DataObject) -> None:
        known, said = case
        said = said.replace("*", data.draw(st.from_regex(r"[a-z0-9.-]{1,9}", fullmatch=True)))
        document: object = said
        for name in reversed(known.fields[0].split(".")):
            document = {name: document}
        status = min(known.statuses)
        self.assertIsNotNone(
            find_words((known,), status, document, echo_of(RequestHead(b"GET", b"/v1"), "m"))
        )
        raw = said.encode()
        for head, model in (
            (RequestHead(b"GET", b"/v1?x=" + quote(said).encode()), ""),
            (RequestHead(b"GET", b"/v1/" + quote_plus(said).encode()), ""),
            (RequestHead(b"GET", b"/v1/" + quote(quote(said)).encode()), ""),
            (RequestHead(b"GET", b"/v1/" + raw), ""),
            (RequestHead(b"GET", b"/v1", [(b"x-app", b"more " + raw + b" more")]), ""),
            (RequestHead(b"GET", b"/v1", [(b"user-agent", quote(said).encode())]), ""),
            (RequestHead(b"GET", b"/v1", [(raw.replace(b" ", b"_"), b"v"), (b"a", raw)]), ""),
            (RequestHead(b"GET", b"/v1"), f"model {said}"),
        ):
            self.assertIsNone(find_words((known,), status, document, echo_of(head, model)), (head, model))

    def test_what_varies_is_no_word(self) -> None:
        """A request names its model, of course."""
        document = {"detail": "The 'gpt-9' model is not supported"}
        echo = echo_of(RequestHead(b"POST", b"/v1", [(b"x-model", b"gpt-9"), (b"x-say", b"the")]), "gpt-9")
        self.assertIsNotNone(find_words(TABLE, 400, document, echo))

    @given(
        st.binary(max_size=40), st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=20)), max_size=3)
    )
    def test_any_request_has_an_echo(self, target: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        echo_of(RequestHead(b"POST", target, headers), "")


class SentenceTests(SynchronousTestCase):
    """What people are shown."""

    def test_shapes(self) -> None:
        for document, sentence in (
            ({"error": {"message": "a", "code": "c"}}, "a"),
            ({"message": "b"}, "b"),
            ({"detail": "c"}, "c"),
            ({"detail": {"message": "d"}}, "d"),
            ({"error_description": "e", "error": "f"}, "e"),
            ({"error": "f"}, "f"),
            ({"detail": {"code": "g"}}, "g"),
            ({"error": {"message": "", "type": "h"}}, "h"),
            ({}, ""),
            ([], ""),
        ):
            self.assertEqual(sentence_of(document), sentence)

    @given(st.text(alphabet=st.characters(), max_size=300))
    def test_short_and_printable(self, sentence: str) -> None:
        shown = shortened(sentence)
        self.assertLessEqual(len(shown), LONGEST_SENTENCE)
        self.assertTrue(shown.isprintable())
        shown.encode("utf-8")

    def test_what_is_plain_stays(self) -> None:
        self.assertEqual(shortened("größer → 5 %"), "größer → 5 %")
        self.assertEqual(shortened("a\x1b[31m\u202eb"), "a\\u001b[31m\\u202eb")
        self.assertEqual(shortened("x" * 201), "x" * 199 + "…")
