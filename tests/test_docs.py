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

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: Everything that people read or copy.
TEXTS = [*PAGES, *sorted(path for path in (ROOT / "etc").iterdir() if path.is_file())]

#: What real tokens of the providers look like, and long random strings.
SECRETS = re.compile(r"sk-ant-[\w-]{8,}|sk-[A-Za-z0-9]{20,}|eyJ[\w-]{20,}\.|\b[A-Za-z0-9_-]{43,}\b")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")


def blocks(page: Path, language: str) -> Iterator[str]:
    """The fenced blocks of ``language`` in a page."""
    for found in re.finditer(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S):
        yield found.group(1)


class DocumentationTests(SynchronousTestCase):
    """README, docs/ and etc/."""

    def test_links(self) -> None:
        for page in PAGES:
            for target in LINK.findall(page.read_text(encoding="utf-8")):
                if "://" not in target:
                    self.assertTrue((page.parent / target).exists(), f"{page.name} links to {target}")

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
        self.assertIsNone(SECRETS.search("token: the-token-of-alice, /etc/ccmproxy/ccmproxy.yaml"))

    def test_error_words(self) -> None:
        page = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
        rows = re.findall(r"^\| \d{3} \| (.*?) \|", page, re.M)
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / PACKAGE).rglob("*.py"))
        self.assertGreater(len(rows), 10)
        for word in re.findall(r"`(\w+)`", " ".join(rows)):
            self.assertIn(f'"{word}"', source)

    def test_json_examples(self) -> None:
        for page in PAGES:
            for text in blocks(page, "json"):
                json.loads(text)

    def test_configuration_examples(self) -> None:
        found = 0
        for page in PAGES:
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
