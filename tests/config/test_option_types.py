"""The types of options, each by itself."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Tag, TypeAdapter, ValidationError
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config.option_types import (
    BRANCH,
    LONGEST_GLOB,
    MOST_GLOBS,
    URL,
    FilePath,
    Host,
    ListenIP,
    Name,
    Network,
    OneOrMore,
    OneOrMoreGlobs,
    OptionMapping,
    Port,
    ServerEndpoint,
    UserAgent,
    Variable,
    Weight,
    by_type,
)


class Left(OptionMapping):
    """One kind of entry."""

    type: Literal["left"] = "left"
    size: int = 1


class Right(OptionMapping):
    """Another kind."""

    type: Literal["right"]


KINDS = Annotated[Left, Tag(f"{BRANCH}left")] | Annotated[Right, Tag(f"{BRANCH}right")]


class TypeTests(SynchronousTestCase):
    """What each takes, and what it refuses."""

    def test_values(self) -> None:
        for kind, good, bad in (
            (Name, ("a", "a b", "\u00e4"), ("", " ", " a", "a\n", "x" * 101, 5)),
            (FilePath, ("/a", "a", "~", "~/a", ""), ("~bob/a", "a\0b", 5)),
            (Variable, ("A_B",), ("", "A=B", "A\0")),
            (URL, ("https://h/p",), ("ftp://h", "https://h?x", "https://u:p@h")),
            (Host, ("h.example", "::1", "10.0.0.1"), ("", "a b", "-", "1.2.3")),
            (Port, (1, 65535), (0, 65536, "80", 1.5, True)),
            (Weight, (0.5, 1e6), (0, -1, 1e7, float("nan"))),
            (ServerEndpoint, ("tcp:8080", "unix:/s", ""), ("tcp", "tcp:x", "\n")),
            (Network, ("10.0.0.0/8", "10.0.0.1/8", "::1"), ("10", "h")),
            (UserAgent, ("a", "a/1 (b)"), ("", " a", "a\n", "\u00e4")),
        ):
            adapter: TypeAdapter[Any] = TypeAdapter(kind, config={"strict": True, "allow_inf_nan": False})
            for value in good:
                self.assertEqual(adapter.validate_python(value), value)
            for value in bad:
                with self.assertRaises(ValidationError, msg=f"{kind} takes {value!r}"):
                    adapter.validate_python(value)

    def test_globs(self) -> None:
        adapter: TypeAdapter[Any] = TypeAdapter(OneOrMoreGlobs, config={"strict": True})
        self.assertEqual(adapter.validate_python("a-*"), ["a-*"])
        for good in (["a-*", "[ab]?"], ["\u00e4"], ["x" * LONGEST_GLOB] * MOST_GLOBS):
            self.assertEqual(adapter.validate_python(good), good)
        for bad in ("", " ", [], [""], ["a\n"], ["x" * (LONGEST_GLOB + 1)], ["x"] * (MOST_GLOBS + 1), [5], 5):
            with self.assertRaises(ValidationError, msg=f"takes {bad!r}"):
                adapter.validate_python(bad)

    def test_values_that_are_changed(self) -> None:
        self.assertEqual(TypeAdapter(ListenIP).validate_python("localhost"), "127.0.0.1")
        self.assertEqual(TypeAdapter(ListenIP).validate_python("0:0:0:0:0:0:0:1"), "::1")
        self.assertEqual(TypeAdapter(OneOrMore).validate_python("a"), ["a"])
        self.assertEqual(TypeAdapter(OneOrMore).validate_python(["a", "b"]), ["a", "b"])


class MappingTests(SynchronousTestCase):
    """Options as a mapping."""

    def test_null_is_left_out(self) -> None:
        self.assertEqual(Left.model_validate({"size": None}), Left())

    def test_unknown_options_are_refused_whatever_they_are(self) -> None:
        for value in (5, None):
            with self.assertRaises(ValidationError):
                Left.model_validate({"other": value})

    def test_by_type(self) -> None:
        with_default: TypeAdapter[Any] = TypeAdapter(Annotated[KINDS, by_type("left")])
        without: TypeAdapter[Any] = TypeAdapter(Annotated[KINDS, by_type()])
        for adapter in (with_default, without):
            self.assertIsInstance(adapter.validate_python({"type": "right"}), Right)
            for bad in ({"type": "up"}, 5):
                with self.assertRaises(ValidationError):
                    adapter.validate_python(bad)
        for left in ({}, {"type": None}):
            self.assertIsInstance(with_default.validate_python(left), Left)
            with self.assertRaises(ValidationError):
                without.validate_python(left)
