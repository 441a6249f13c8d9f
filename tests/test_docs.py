"""The documentation keeps its word: links lead somewhere, examples are valid, and nothing in it is a secret."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import load_text
from tests.source import PACKAGE, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
#: Pages whose examples are to be copied. The specification also shows what is not built yet.
EXAMPLES = [page for page in PAGES if page.parent.name != "spec"]
#: Everything that people read or copy.
TEXTS = [*PAGES, *sorted(path for path in (ROOT / "etc").iterdir() if path.is_file())]

#: What real tokens of the providers look like, and long random strings: those have capitals or digits in them, which
#: long names of header fields have not.
SECRETS = re.compile(
    r"sk-ant-[\w-]{8,}|sk-[A-Za-z0-9]{20,}|eyJ[\w-]{20,}\.|\b(?=[a-z_-]*[A-Z0-9])[A-Za-z0-9_-]{43,}\b"
)
#: Where a link leads: the file, empty within a page, and the heading there.
LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)")


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks of ``language`` in a page."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        yield found.group(1)


def anchors(page: str) -> set[str]:
    """What a link to a heading of ``page`` may name: the heading in lower case, hyphens for spaces, no punctuation."""
    text = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    return {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+?)\s*$", text, re.M)
    }


def broken_links(page: Path) -> Iterator[str]:
    """The links of a page that lead nowhere, to a file or to a heading."""
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        found = page.parent / target if target else page
        if not found.exists():
            yield f"{page.name} links to {target}"
        elif anchor and anchor not in anchors(found.read_text(encoding="utf-8")):
            yield f"{page.name} links to {target}#{anchor}"


class DocumentationTests(SynchronousTestCase):
    """README, docs/ and etc/."""

    def test_refusals_name_their_tests(self) -> None:
        """Each row of docs/errors.md names tests of a conclusion and, after a semicolon, tests of what follows from it.
        All of them exist."""
        page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
        rows = [line for line in page.splitlines() if line.startswith("| ") and "| Test |" not in line]
        self.assertGreater(len(rows), 30)
        for row in rows:
            column = row.rstrip("| ").rpartition("|")[2]
            named = re.findall(r"`(tests/[\w/]+\.py)`((?:,? \w+)*)", column)
            self.assertTrue(named, row)
            self.assertNotIn("\N{EN DASH}", column, row)
            self.assertIn(";", column, row)
            for path, tests in named:
                text = (ROOT / path).read_text(encoding="utf-8")
                for test in re.findall(r"\w+", tests):
                    self.assertRegex(text, rf"\b(?:def|class) {test}\b", row)

    def test_links(self) -> None:
        self.assertEqual([sentence for page in PAGES for sentence in broken_links(page)], [])

    def test_what_a_broken_link_is(self) -> None:
        folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, folder)
        (folder / "other.md").write_text("# One, two: `three`\n```\n# four\n```\n", encoding="utf-8")
        page = folder / "page.md"
        page.write_text(
            "## Here\n[a](other.md) [b](other.md#one-two-three) [c](#here) [d](https://example.org/none#x)\n"
            "[e](none.md) [f](other.md#four) [g](#there) [h](none.md#here)",
            encoding="utf-8",
        )
        self.assertEqual(
            [sentence.rpartition(" ")[2] for sentence in broken_links(page)],
            ["none.md", "other.md#four", "#there", "none.md"],
        )

    def test_pages_of_all_folders(self) -> None:
        """A page in a folder below docs/ is looked at like the others."""
        self.assertLessEqual({"docs", "spec", "clients"}, {page.parent.name for page in PAGES})

    def test_files_exist(self) -> None:
        for page in PAGES:
            for name in re.findall(r"`([\w/]+\.py)`", page.read_text(encoding="utf-8")):
                self.assertTrue(
                    (ROOT / PACKAGE / name).exists() or (ROOT / name).exists(), f"{page.name}: {name}"
                )

    def test_no_secrets(self) -> None:
        for path in TEXTS:
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                self.assertIsNone(SECRETS.search(line), f"{path.name}:{number} looks like a secret")

    def test_what_a_secret_looks_like(self) -> None:
        self.assertTrue(SECRETS.search("token: sk-ant-oat01-" + "x" * 20))
        self.assertTrue(SECRETS.search("token: " + "Ab1_" * 11))
        self.assertTrue(SECRETS.search("token: " + "a0f3" * 11))
        self.assertIsNone(SECRETS.search("token: the-token-of-alice, /etc/ccmproxy/ccmproxy.yaml"))
        self.assertIsNone(SECRETS.search("anthropic-ratelimit-unified-representative-claim: five_hour"))

    def test_error_words(self) -> None:
        page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| \d{3}(?:, \d{3})* \| (.*?) \|", page, re.M)
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / PACKAGE).rglob("*.py"))
        self.assertGreater(len(rows), 10)
        for word in re.findall(r"`(\w+)`", " ".join(rows)):
            self.assertIn(f'"{word}"', source)

    def test_json_examples(self) -> None:
        for page in EXAMPLES:
            for text in blocks(page, "json"):
                json.loads(text)

    def test_configuration_examples(self) -> None:
        found = 0
        for page in EXAMPLES:
            for text in blocks(page, "yaml"):
                folder = tempfile.mkdtemp()
                self.addCleanup(shutil.rmtree, folder)
                for name in re.findall(r"token_file: (\S+)", text):
                    Path(folder, name).write_text(f"the-token-in-{name}", encoding="utf-8")
                load_text(text, page.name, directory=folder, environ={}, home=folder)
                found += 1
        self.assertGreaterEqual(found, 2)

    def test_commands_of_the_readme(self) -> None:
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        commands = re.findall(r"^    make (\w+)$", readme, re.M)
        self.assertEqual(commands, ["demo", "test"])
        for command in commands:
            self.assertRegex(makefile, rf"(?m)^{command}:")
