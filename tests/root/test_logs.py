"""Tests of the daemon's log: lines of text or JSON, from a minimum level up."""

from __future__ import annotations

import json
from typing import Any

from twisted.logger import ILogObserver, Logger, LogPublisher
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.usage import Tokens
from ccmproxy.root.logs import daemon_observer
from tests.conversation import World

#: Text from a malicious peer: several kinds of line ends, and terminal escape sequences.
TROUBLE = "a\r\nb\nc\x0bd\x1b[31me\x85f\u2028g\x00h"


class LogTests(SynchronousTestCase):
    """What is written to the file."""

    def log(self, form: str, level: str = "info") -> tuple[Logger, str]:
        """Return a logger and the file that its events are written to."""
        path = self.mktemp()
        observer: ILogObserver = daemon_observer(path, level, form)
        return Logger("test", observer=LogPublisher(observer)), path

    def lines(self, path: str) -> list[str]:
        """Return the lines without their times."""
        with open(path, newline="") as file:
            text = file.read()
        self.assertTrue(text == "" or text.endswith("\n"))
        return text.split("\n")[:-1]

    def objects(self, path: str) -> list[dict[str, Any]]:
        """Return the lines as decoded JSON objects."""
        return [json.loads(line) for line in self.lines(path)]

    def test_text(self) -> None:
        log, path = self.log("text")
        log.info("request {request_id} took {seconds:.1f} s", request_id="req_1", seconds=1.25)
        self.assertRegex(self.lines(path)[0], r"^\d{4}-\d\d-\d\dT\S+ \[test#info\] request req_1 took 1.2 s$")

    def test_json(self) -> None:
        """Every field of the event is written, including the message."""
        log, path = self.log("json")
        tokens = Tokens(input=3, output=4)
        log.info(
            "{request_id} {tokens}", request_id="req_1", tokens=tokens, path=b"/\xff", other={1}, session=None
        )
        found = self.objects(path)[0]
        self.assertRegex(found.pop("time"), r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+\+00:00$")
        self.assertTrue(found.pop("message").startswith("req_1 3 in (0 from cache), 4 out"))
        self.assertEqual(found["tokens"]["input"], 3)
        self.assertEqual(found["tokens"]["output"], 4)
        found.pop("tokens")
        self.assertEqual(
            found,
            {
                "level": "info",
                "logger": "test",
                "request_id": "req_1",
                "path": "/\xff",
                "other": "{1}",
                "session": None,
            },
        )

    def test_levels(self) -> None:
        for level, expected in (("debug", 4), ("info", 3), ("warn", 2), ("error", 1)):
            for form in ("text", "json"):
                log, path = self.log(form, level)
                log.debug("a")
                log.info("b")
                log.warn("c")
                log.error("d")
                self.assertEqual(len(self.lines(path)), expected)

    def test_one_event_is_one_line(self) -> None:
        """Text from a peer can neither begin a line nor contain escape sequences."""
        for form in ("text", "json"):
            log, path = self.log(form)
            log.info("{what}", what=TROUBLE)
            self.assertEqual(len(self.lines(path)), 1)
            with open(path, newline="") as file:
                text = file.read()
            self.assertEqual(len(text.splitlines()), 1)
            self.assertTrue(text[:-1].isprintable(), text)

    def test_failures(self) -> None:
        """They are written with their traceback: indented below the line in text, as a field in JSON."""
        for form in ("text", "json"):
            log, path = self.log(form)
            try:
                raise ValueError(TROUBLE)
            except ValueError:
                log.failure("request {request_id} failed", request_id="req_1")
            if form == "json":
                found = self.objects(path)[0]
                self.assertEqual((found["level"], found["message"]), ("critical", "request req_1 failed"))
                self.assertIn("ValueError", found["traceback"])
            else:
                first, *rest = self.lines(path)
                self.assertIn("request req_1 failed", first)
                self.assertTrue(rest)
                for line in rest:
                    self.assertTrue(line.startswith("\t"), line)
                    self.assertTrue(line[1:].isprintable(), line)

    def test_events_that_cannot_be_written(self) -> None:
        """The other events are still written."""
        for form in ("text", "json"):
            log, path = self.log(form)
            log.info("{missing}")
            log.info("")
            log.info("{unprintable}", unprintable=_Unprintable())
            log.info("next")
            self.assertIn("next", self.lines(path)[-1])

    def test_a_whole_turn(self) -> None:
        """In both forms a program can read the tokens and the outcome from the events of a service."""
        world = World(self)
        world.answer(stream=True, session="s-1")
        for form in ("text", "json"):
            path = self.mktemp()
            observer = daemon_observer(path, "debug", form)
            for event in world.events:
                observer(event)
            self.assertEqual(
                len(self.lines(path)), len([each for each in world.events if each["log_format"]])
            )
            if form == "json":
                finished = next(each for each in self.objects(path) if "result" in each)
                self.assertEqual(finished["result"], "served")
                self.assertEqual(finished["session"], "s-1")
                self.assertGreater(finished["tokens"]["output"], 0)


class _Unprintable:
    def __str__(self) -> str:
        raise ValueError("no")

    __repr__ = __str__
