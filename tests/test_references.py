"""References that lead somewhere: what comments, tests and pages cite is in the documents of this repository.

Cited are parts, headings and points of the specification (``spec 4.2``, ``spec 3.2 point 5``), failure modes (F and a
number), and headings of other pages (the path of the page, and the heading in quotes).
``docs/spec/README.md`` says how.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.source import ROOT

SPECIFICATION = ROOT / "docs" / "spec"
FAILURE_MODES = ROOT / "docs" / "failure-modes.md"
#: Folders and files that may cite.
CITING = (
    "ccmproxy",
    "tests",
    "bench",
    "docs",
    "etc",
    "twisted",
    ".ci",
    "README.md",
    "Makefile",
    "pyproject.toml",
    "setup.cfg",
)
#: Endings of files that hold text which people write.
SUFFIXES = frozenset(
    {".py", ".md", ".c", ".h", ".go", ".mjs", ".yaml", ".example", ".service", ".toml", ".cfg", ""}
)

#: Words that say of a part how much of it is built.
STATES = frozenset({"built", "built in part", "not built yet"})


@dataclass(frozen=True)
class Documents:
    """What can be cited.

    ``points``: number of a heading of the specification → numbers of the points below it; ``words``: number of a part →
    its headings that have no number; ``modes``: numbers of failure modes; ``pages``: path of a page → its headings.
    """

    points: Mapping[str, Set[int]]
    words: Mapping[str, Set[str]] = field(default_factory=dict)
    modes: Set[int] = frozenset()
    pages: Mapping[str, Set[str]] = field(default_factory=dict)


# Reading the documents ----------------------------------------------------------------------------------------

_HEADING = re.compile(r"^#+ (.+?)\s*$", re.M)
_FENCED = re.compile(r"^```.*?^```$", re.M | re.S)


def headings(page: str) -> set[str]:
    """The headings of a page, without those that only look so in an example."""
    return set(_HEADING.findall(_FENCED.sub("", page)))


def read_part(page: str) -> tuple[dict[str, set[int]], dict[str, set[str]]]:
    """``points`` and ``words`` (see Documents) of one part of the specification.

    A heading has a number where it begins with one: ``# 4. Proxying``, ``## 4.2 Errors``. A point is a line that begins
    with a number and a full stop.
    """
    points: dict[str, set[int]] = {}
    words: set[str] = set()
    part = number = ""
    for line in _FENCED.sub("", page).splitlines():
        if heading := _HEADING.fullmatch(line):
            found = re.match(r"(\d+(?:\.\d+)*)\.? ", heading[1])
            number = found[1] if found else number
            part = part or number
            points.setdefault(number, set())
            if not found:
                words.add(heading[1])
        elif point := re.match(r"(\d+)\. ", line):
            points.setdefault(number, set()).add(int(point[1]))
    return points, {part: words}


def read_documents() -> Documents:
    """The documents of this repository."""
    points: dict[str, Set[int]] = {}
    words: dict[str, Set[str]] = {}
    for path in sorted(SPECIFICATION.glob("[0-9]*.md")):
        more_points, more_words = read_part(path.read_text(encoding="utf-8"))
        points |= more_points
        words |= more_words
    rows = re.findall(r"^\| F(\d+) \|", FAILURE_MODES.read_text(encoding="utf-8"), re.M)
    pages = {
        path.relative_to(ROOT).as_posix(): headings(path.read_text(encoding="utf-8"))
        for path in (ROOT / "docs").rglob("*.md")
    }
    return Documents(points, words, {int(row) for row in rows}, pages)


def citing_files() -> Iterator[Path]:
    """Every file that may cite something."""
    for name in CITING:
        path = ROOT / name
        for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if each.is_file() and each.suffix in SUFFIXES and not {"__pycache__", ".build"} & set(each.parts):
                yield each


# The rules ----------------------------------------------------------------------------------------------------

#: What may stand between the words of a citation: white space, and what begins the next line of a comment.
_GAP = r"[\s#:*/]*?"
_AND = rf"{_GAP}(?:,|/|\band\b|\bto\b){_GAP}\s*"
_CITED = re.compile(rf"\b[Ss]pec{_GAP}\s+{_GAP}(?=\d)")
_ITEM = re.compile(
    rf"(\d+(?:\.\d+)*)(?:{_GAP}\s+points?{_GAP}\s+(\d+(?!\.?\d)(?:{_AND}\d+(?!\.?\d))*))?"
    rf"(?:,{_GAP}\s*([A-Z][a-z]+)\b)?(?:\s+\([^()]*\))?"
)
_NEXT = re.compile(_AND + r"(?=\d)")
_MODE = re.compile(r"\bF([1-9]\d{0,2})\b")
_PAGE = re.compile(r"\b(docs/[\w./-]+\.md)(?:,\s+\"([^\"]+)\")?")
#: Citations that name no document, or one that is not here.
_NOWHERE = re.compile(r"\bdesign(?:\.md)?:|\bdesign\.md\b|\b[Tt]he spec\b(?!\s+\d)|\(see (?:the )?design\b")
#: A heading that one part cites in another: a number that is no measure.
_BARE = re.compile(r"(?<![\w.$/#<≤-])(?<![<≤] )([1-9]\d?\.[1-9]\d?)(\.[1-9]\d?)?(?![\w%]|\.\d)")


def dangling(text: str, documents: Documents) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) of each citation in ``text`` that leads nowhere."""

    def at(position: int) -> int:
        return text.count("\n", 0, position) + 1

    for cited in _CITED.finditer(text):
        position: int | None = cited.end()
        while position is not None and (item := _ITEM.match(text, position)) is not None:
            for problem in _dangling_item(item, documents):
                yield at(item.start()), problem
            more = _NEXT.match(text, item.end())
            position = more.end() if more is not None else None
    for mode in _MODE.finditer(text):
        if int(mode[1]) not in documents.modes:
            yield at(mode.start()), f"there is no failure mode {mode[0]}"
    for page in _PAGE.finditer(text):
        if page[1] not in documents.pages:
            yield at(page.start()), f"there is no page {page[1]}"
        elif page[2] is not None and " ".join(page[2].split()) not in documents.pages[page[1]]:
            yield at(page.start()), f'{page[1]} has no heading "{page[2]}"'
    for nowhere in _NOWHERE.finditer(text):
        yield at(nowhere.start()), f'"{nowhere[0]}" names no document of this repository'


def _dangling_item(item: re.Match[str], documents: Documents) -> Iterator[str]:
    number, points, word = item.groups()
    if number not in documents.points:
        yield f"the specification has no {number}"
        return
    for point in re.findall(r"\d+", points or ""):
        if int(point) not in documents.points[number]:
            yield f"spec {number} has no point {point}"
    if word is not None and number in documents.words and word not in documents.words[number]:
        yield f"part {number} has no heading {word!r}"


def dangling_in_part(text: str, documents: Documents) -> Iterator[tuple[int, str]]:
    """The same for the bare numbers by which one part of the specification cites another: ``(4.2)``, ``12.1.2``."""
    blanked = re.sub(
        r"^#[^\n]*|```.*?^```$|`[^`\n]*`",
        lambda found: re.sub(r"[^\n]", " ", found[0]),
        text,
        flags=re.M | re.S,
    )
    for found in _BARE.finditer(blanked):
        number, point = found[1], (found[2] or "").lstrip(".")
        line = text.count("\n", 0, found.start()) + 1
        if number not in documents.points:
            yield line, f"the specification has no {number}"
        elif point and int(point) not in documents.points[number]:
            yield line, f"{number} has no point {point}"


class ReferenceTests(SynchronousTestCase):
    """The repository as it is."""

    def test_references_resolve(self) -> None:
        documents = read_documents()
        found = [
            f"{path.relative_to(ROOT)}:{line} {problem}"
            for path in citing_files()
            for line, problem in dangling(path.read_text(encoding="utf-8"), documents)
        ]
        self.assertEqual(found, [], "\n" + "\n".join(found))

    def test_parts_refer_to_each_other(self) -> None:
        documents = read_documents()
        found = [
            f"{path.name}:{line} {problem}"
            for path in sorted(SPECIFICATION.glob("[0-9]*.md"))
            for line, problem in dangling_in_part(path.read_text(encoding="utf-8"), documents)
        ]
        self.assertEqual(found, [], "\n" + "\n".join(found))

    def test_something_is_cited(self) -> None:
        """A search that finds no file, or no heading, would find no dangling reference either."""
        documents = read_documents()
        self.assertGreater(len(list(citing_files())), 400)
        self.assertEqual({n for n in documents.points if "." not in n}, {str(n) for n in range(1, 16)})
        self.assertGreater(len(documents.modes), 60)
        texts = [path.read_text(encoding="utf-8") for path in citing_files()]
        self.assertGreater(sum(len(_CITED.findall(text)) for text in texts), 200)
        self.assertGreater(sum(len(_MODE.findall(text)) for text in texts), 200)
        self.assertGreater(sum(len(_PAGE.findall(text)) for text in texts), 5)

    def test_state_of_each_part(self) -> None:
        """The top of a part and the index say alike how much of it is built."""
        index = (SPECIFICATION / "README.md").read_text(encoding="utf-8")
        rows = dict(re.findall(r"^\| \[.*?\]\((\S+?)\) \|.*\| (.+?) \|$", index, re.M))
        parts = sorted(SPECIFICATION.glob("[0-9]*.md"))
        self.assertEqual(sorted(rows), [path.name for path in parts])
        for path in parts:
            top = re.match(
                r"# \d+\. .*\n\n> \*\*State: ([a-z ]+)[.*]", path.read_text(encoding="utf-8"), re.M
            )
            assert top is not None, f"{path.name} does not begin with its title and its state"
            self.assertIn(top[1], STATES, path.name)
            self.assertEqual(rows[path.name], top[1], path.name)

    def test_failure_modes_have_tests(self) -> None:
        """Those that count as built: somebody has shown it."""
        built, _, _ = FAILURE_MODES.read_text(encoding="utf-8").partition("## Not built yet")
        tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
        named = set(_MODE.findall(tests))
        modes = re.findall(r"^\| F(\d+) \|", built, re.M)
        self.assertGreater(len(modes), 40)
        self.assertEqual([f"F{mode}" for mode in modes if mode not in named], [])


#: Put together, so that this file does not cite what is not there.
SPEC = "spec"
PAGE = "docs/" + "page.md"


class RuleTests(SynchronousTestCase):
    """Each rule finds what it is there to find, and lets the innocent pass."""

    DOCUMENTS = Documents(
        points={"1": set(), "3": set(), "3.2": {1, 2, 5}, "3.4": set(), "4": set(), "4.1": {2, 3}},
        words={"1": {"Reload", "Errors"}, "3": set()},
        modes={1, 4, 13},
        pages={PAGE: {"Seeing it", "What a client notices"}},
    )

    def found(self, text: str) -> list[str]:
        """What is wrong with the citations in ``text``."""
        return [problem for _, problem in dangling(text, self.DOCUMENTS)]

    def test_what_resolves(self) -> None:
        for text in (
            f"({SPEC} 3.2)",
            f"{SPEC.title()} 3, 4.1.",
            f"{SPEC} 3.2 to 3.4 and 4",
            f"{SPEC} 3.2 / 3.4",
            f"{SPEC} 3.2 point 5",
            f"{SPEC} 4.1 points 2 and 3",
            f"{SPEC} 3.2 points 1, 2 to 5, and 9 tries",
            f"#: ... ({SPEC}\n#: 3.2 point\n    #: 5, 3.4)",
            f"{SPEC} 3.4 (400s of others), 4.1",
            f"{SPEC} 1, Reload: what comes then",
            f"{SPEC} 1, `headers`",
            f"{SPEC} 4.1, F13",
            "(F1-F4)",
            "F1 to F13",
            PAGE,
            f'{PAGE}, "Seeing it"',
            f'({PAGE},\n    "What a\n    client notices")',
            f"{SPEC} = " + "{3: 4}",
            f"the {SPEC}s of 9.9",
            "0xF9, F9A0, UTF-8, MF2, F1x",
        ):
            self.assertEqual(self.found(text), [], text)

    def test_headings_that_are_not_there(self) -> None:
        for text, problems in (
            (f"({SPEC} 9)", 1),
            (f"{SPEC} 3.3", 1),
            (f"{SPEC.title()} 3.2.1", 1),
            (f"{SPEC} 3.2, 3.3, 3.5", 2),
            (f"{SPEC} 3.2 and 3.3", 1),
            (f"{SPEC} 3.2 / 3.3", 1),
            (f"{SPEC} 3.2 to 3.9", 1),
            (f"{SPEC} 3.4 (400s of others), 4.2", 1),
            (f"#: ... ({SPEC}\n#: 3.2, 3.4,\n    #: 3.5)", 1),
            (f"{SPEC} 3.2 points 1 and 2, 3.5", 1),
            (f"{SPEC} 1, Restart", 1),
        ):
            self.assertEqual(len(self.found(text)), problems, text)

    def test_points_that_are_not_there(self) -> None:
        self.assertEqual(self.found(f"{SPEC} 3.2 point 8"), ["spec 3.2 has no point 8"])
        self.assertEqual(len(self.found(f"{SPEC} 3.2 points 2 to 8")), 1)
        self.assertEqual(len(self.found(f"{SPEC} 3.4 point 1")), 1)

    def test_other_documents(self) -> None:
        for number in (2, 99):
            self.assertEqual(self.found(f"({SPEC} 3, F{number})"), [f"there is no failure mode F{number}"])
        self.assertEqual(self.found("docs/" + "none.md"), ["there is no page docs/" + "none.md"])
        self.assertEqual(self.found(f'{PAGE}, "Hearing it"'), [f'{PAGE} has no heading "Hearing it"'])
        for text in ("(design" + ": Life)", "design" + ".md", f"as the {SPEC} says", f"The {SPEC}'s 400"):
            self.assertEqual(len(self.found(text)), 1, text)

    def test_lines_are_told(self) -> None:
        found = list(dangling(f"\n\n{SPEC} 3,\n3.9", self.DOCUMENTS))
        self.assertEqual(found, [(4, "the specification has no 3.9")])

    def test_reading_a_part(self) -> None:
        page = (
            "# 3. Title\n\n1. a\n## Words\n## 3.2 Refresh\ntext 9. no\n1. one\n2. two\n```\n# 3.5 no\n7. no\n```\n"
            "## 3.10 Last\n"
        )
        points, words = read_part(page)
        self.assertEqual(points, {"3": {1}, "3.2": {1, 2}, "3.10": set()})
        self.assertEqual(words, {"3": {"Words"}})

    def test_bare_numbers(self) -> None:
        def found(text: str) -> list[tuple[int, str]]:
            return list(dangling_in_part(text, self.DOCUMENTS))

        for text in (
            "(3.2) as 4.1, 3.2.5",
            "# 9.9 is a heading",
            "`9.9`",
            "```\n9.9\n```",
            "TLS < 1.2",
            "≤ 1.5 s",
            "0.25",
        ):
            self.assertEqual(found(text), [], text)
        self.assertEqual(found("# 4 A title\n(3.9)"), [(2, "the specification has no 3.9")])
        self.assertEqual(found("see 3.2.4"), [(1, "3.2 has no point 4")])
