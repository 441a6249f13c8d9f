"""The table of Codex's known words; what each row does is shown by ``test_traffic``."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.codex.refusal_words import REFUSAL_WORDS
from ccmproxy.dialects.known_words import find_words
from tests.source import ROOT


class TableTests(SynchronousTestCase):
    """What holds for each row."""

    def test_each_row_has_a_source_and_a_place(self) -> None:
        for known in REFUSAL_WORDS:
            self.assertTrue(known.source and known.statuses and known.fields, known)

    def test_each_row_is_explained(self) -> None:
        page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8").lower()
        for known in REFUSAL_WORDS:
            for words in known.telling:
                self.assertIn(words, page, known)

    def test_each_row_is_the_first_for_its_own_sentence(self) -> None:
        for known in REFUSAL_WORDS:
            value = known.sentence.replace("*", "'some' thing")
            for status in known.statuses:
                for path in known.fields:
                    document: object = value
                    for name in reversed(path.split(".")):
                        document = {name: document}
                    found = find_words(REFUSAL_WORDS, status, document)
                    assert found is not None, (known, path)
                    self.assertIs(found.meaning, known.meaning, (known, path))
