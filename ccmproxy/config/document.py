"""Reads a YAML (or JSON) text into plain values with line numbers, and bounds the work that a file can cause.

Scalars follow the core schema of YAML 1.2 (section 10.3.2), which is that of JSON: ``no`` and ``12:30`` are strings,
``0123`` is a number, there are no dates. Anchors, aliases and merge keys (``<<``) work; custom tags do not.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from ccmproxy.config.problems import Path, Position

#: More values than any sensible file has; stops files made to exhaust us (nested aliases grow exponentially).
MOST_VALUES = 20_000
#: Depth of nested lists and mappings. Also stops aliases that contain themselves.
DEEPEST = 32
#: Characters of a file; a configuration has a few thousand.
LONGEST = 1_000_000
#: Digits of a number; no option needs more.
LONGEST_NUMBER = 30

#: Options whose values are never repeated in a message, at any place in the file.
SECRET_OPTIONS = frozenset({"token", "api_key", "password", "headers"})

_TAG = "tag:yaml.org,2002:"
#: What PyYAML quotes. The groups are harmless: names of its own, like '<block end>', and single characters.
_QUOTED = re.compile(r"""'(?:(<[a-z ]+>|\\?[^'])'|[^']*'?)|"(?:(\\?[^"])"|[^"]*"?)""")
#: A string of JSON, or the beginning of a comment of JavaScript (the group), which some programs allow in JSON: at the
#: beginning of a line, or after punctuation.
_JSON_STRING_OR_COMMENT = re.compile(r'"(?:[^"\\]|\\.)*"|(?:^|[\[{,\]}])[ \t]*(//|/\*)', re.MULTILINE)
_JSON_STRING_OR_TAB = re.compile(r'("(?:[^"\\]|\\.)*")|\t')


class DocumentError(Exception):
    """The text cannot be read at all. ``position`` is None where no single place is at fault."""

    def __init__(self, message: str, position: Position | None = None) -> None:
        super().__init__(message)
        self.position = position


@dataclass(slots=True)
class Document:
    """A text that was read.

    ``value``: dicts, lists, str, int, float, bool, None. ``positions``: the position of each path; for an entry of a
    mapping, that of its name. ``secrets``: strings that must not be repeated. ``faults``: (path, message, position) of
    problems that did not stop the reading, such as an option that is given twice.
    """

    value: Any = None
    positions: dict[Path, Position] = field(default_factory=dict)
    secrets: set[str] = field(default_factory=set)
    faults: list[tuple[Path, str, Position]] = field(default_factory=list)


class _Loader(yaml.SafeLoader):
    """Composes nodes and resolves plain scalars by the core schema, with a bound on the depth."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth += 1
        if self.depth > 2 * DEEPEST:
            raise DocumentError("is nested too deeply", _position(self.get_mark()))
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


def read_document(text: str) -> Document:
    """Read ``text``. Raises DocumentError if it is not YAML, too large, or too deep."""
    if len(text) > LONGEST:
        raise DocumentError(f"is too large for a configuration file ({len(text)} characters)")
    node = _compose(_without_tabs(text.removeprefix("\N{BYTE ORDER MARK}")))
    document = Document()
    if node is not None:
        document.positions[()] = _position(node.start_mark)
        document.value = _Reader(document).read(node, (), secret=False)
    return document


def _compose(text: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
        return loader.get_single_node()
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        column = error.position - (before.rfind("\n") + 1) + 1
        position = Position(before.count("\n") + 1, column)
        raise DocumentError(
            f"has a character (U+{ord(text[error.position]):04X}) that YAML does not allow", position
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        hint = " (a comment begins with #)" if _has_foreign_comment(text) else ""
        raise DocumentError(
            f"is not valid YAML: {_explain(error)}{hint}", _position(mark) if mark else None
        ) from None
    except RecursionError:
        raise DocumentError("is nested too deeply") from None
    except (yaml.YAMLError, ValueError, OverflowError):
        raise DocumentError("is not valid YAML") from None


def _has_foreign_comment(text: str) -> bool:
    return any(found.group(1) for found in _JSON_STRING_OR_COMMENT.finditer(text))


def _without_tabs(text: str) -> str:
    """Replace the tabs of a JSON text by spaces: JSON may be indented with tabs, YAML may not."""
    if "\t" not in text:
        return text
    try:
        json.loads(text, parse_int=str)
    except (ValueError, RecursionError):
        return text
    return _JSON_STRING_OR_TAB.sub(lambda found: found.group(1) or " ", text)


def _explain(error: yaml.MarkedYAMLError) -> str:
    """PyYAML's message for a syntax error without its quotes from the file, which may be (part of) a token."""
    problem = error.problem or "it cannot be parsed"
    if "undefined alias" in problem:
        return (
            "it refers to an anchor that does not exist (a value that begins with * or & must be in quotes)"
        )
    if "duplicate anchor" in (error.context or ""):
        return "an anchor is defined twice (a value that begins with & must be in quotes)"
    if "single document" in (error.context or ""):
        return "it holds more than one document"
    begin, end = error.context_mark, error.problem_mark
    if error.context and begin and end and begin.line != end.line:
        problem += f", {error.context} that begins in line {begin.line + 1}"
    explained = _QUOTED.sub(lambda quoted: quoted[0] if quoted[1] or quoted[2] else "…", problem)
    if "'\\t'" in problem:
        explained += " (YAML is indented with spaces, not with tabs)"
    return explained


def _position(mark: Any) -> Position:
    return Position(mark.line + 1, mark.column + 1)


class _Reader:
    """Turns nodes into values, and records positions, secrets and faults in ``document``."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._left = MOST_VALUES

    def read(self, node: yaml.Node, path: Path, secret: bool) -> Any:
        """The value of ``node``. ``secret``: nothing in it may be repeated. Raises DocumentError at a bound."""
        self._left -= 1
        if self._left < 0:
            raise DocumentError("holds too many values", _position(node.start_mark))
        if len(path) > DEEPEST:
            raise DocumentError("is nested too deeply", _position(node.start_mark))
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node, path, secret)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            values = []
            for index, child in enumerate(node.value):
                self._document.positions[(*path, index)] = _position(child.start_mark)
                values.append(self.read(child, (*path, index), secret))
            return values
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path, secret)
        return self._fault(path, "YAML tags are not supported", node)

    def _mapping(self, node: yaml.MappingNode, path: Path, secret: bool) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: list[tuple[yaml.Node, yaml.Node]] = []
        for key, child in node.value:
            if key.tag == f"{_TAG}merge":
                merged += self._merged(child, path)
            elif not isinstance(key, yaml.ScalarNode):
                self._fault(path, "the name of an option must be a word", key)
            else:
                self._entry(values, key, child, path, secret)
        for key, child in merged:  # explicit entries take precedence over merged ones
            if isinstance(key, yaml.ScalarNode) and key.value not in values:
                self._entry(values, key, child, path, secret)
        return values

    def _entry(
        self, values: dict[str, Any], key: yaml.ScalarNode, child: yaml.Node, path: Path, secret: bool
    ) -> None:
        name = self._text(key.value)
        if name is None:
            self._fault(path, "the name of an option is not valid Unicode", key)
            return
        below = (*path, name)
        secret = secret or name in SECRET_OPTIONS
        if name in values:
            first = self._document.positions[below]
            self._fault(below, f"is given twice (first in line {first.line})", key)
            self.read(
                child, (*path, name), secret
            )  # the second value may be a secret, too, and must be recorded
            self._document.positions[below] = first
            return
        self._document.positions[below] = _position(key.start_mark)
        values[name] = self.read(child, below, secret)

    def _merged(self, node: yaml.Node, path: Path) -> list[tuple[yaml.Node, yaml.Node]]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        pairs: list[tuple[yaml.Node, yaml.Node]] = []
        for source in sources:
            if isinstance(source, yaml.MappingNode):
                pairs += [pair for pair in source.value if pair[0].tag != f"{_TAG}merge"]
                self._left -= len(source.value)
            else:
                self._fault(path, "<< merges a mapping, or a list of mappings", node)
        if self._left < 0:
            raise DocumentError("holds too many values", _position(node.start_mark))
        return pairs

    def _scalar(self, node: yaml.ScalarNode, path: Path, secret: bool) -> Any:
        text: str = node.value
        if secret and text:
            self._document.secrets.add(text)
        kind = node.tag.removeprefix(_TAG)
        try:
            if kind in ("str", "merge"):
                value = self._text(text)
                return self._fault(path, "is not valid Unicode", node) if value is None else value
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind in ("int", "float") and len(text) > LONGEST_NUMBER:
                return self._fault(path, "is a number with too many digits (put text in quotes)", node)
            if kind == "int":
                return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
            if kind == "float":
                return float(re.sub(r"\.(?=inf|nan)", "", text, flags=re.IGNORECASE))
        except (ValueError, KeyError):
            return self._fault(path, f"is not a valid YAML {kind}", node)
        return self._fault(path, "YAML tags are not supported", node)

    def _text(self, text: str) -> str | None:
        """``text`` with the surrogate pairs of JSON's ``\\u`` escapes joined; None if a surrogate stands alone."""
        try:
            return text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            return None

    def _fault(self, path: Path, message: str, node: yaml.Node) -> None:
        self._document.faults.append((path, message, _position(node.start_mark)))
