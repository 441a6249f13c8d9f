"""The reference and the example name every option."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import load_text
from ccmproxy.config.document import read_document
from ccmproxy.config.reference import BEGIN, END, SECTIONS, markdown, option_names
from ccmproxy.config.schema import FileOptions, json_schema
from tests.source import ROOT

EXAMPLE = (ROOT / "etc" / "ccmproxy.yaml").read_text(encoding="utf-8")
PAGE = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")


class ReferenceTests(SynchronousTestCase):
    """docs/configuration.md."""

    def test_page_holds_the_reference(self) -> None:
        between = PAGE.partition(BEGIN)[2].partition(END)[0]
        self.assertEqual(
            between.strip(),
            markdown().strip(),
            "run `ccmproxy schema --markdown`, and put it between the marks",
        )

    def test_sections_are_all_of_the_schema(self) -> None:
        titles = {FileOptions.__name__, *json_schema()["$defs"]}
        self.assertEqual({model.__name__ for _, _, model in SECTIONS}, titles)

    def test_option_names(self) -> None:
        names = option_names()
        for definition in (json_schema(), *json_schema()["$defs"].values()):
            self.assertTrue(set(definition["properties"]) <= names)
        for name in names:
            self.assertIn(f"`{name}`", PAGE)

    def test_table(self) -> None:
        text = markdown()
        for line in (
            "| `listen_port` | number 0 to 65535 |  | TCP port, 8080",
            "| `type` | `ccm`, `ocm` | required |",
            "| `max_request_body` | size | `64MiB` |",
            "| `head_timeout` | duration | `30s` |",
            "| `allow_anonymous` | `true`, `false` | `false` |",
            "| `credentials` | text or list | required |",
        ):
            self.assertIn(line, text)


class ExampleTests(SynchronousTestCase):
    """etc/ccmproxy.yaml."""

    def test_loads(self) -> None:
        config = load_text(EXAMPLE, "ccmproxy.yaml", directory="/etc/ccmproxy", environ={}, home="/home/a")
        self.assertEqual([each.tag for each in config.services[0].credentials], ["work", "home", "key"])

    def test_mentions_every_option(self) -> None:
        mentioned = set(re.findall(r"^[\s#-]*(\w+):", EXAMPLE, re.M)) | set(
            re.findall(r"\b(token_\w+)\b", EXAMPLE)
        )
        self.assertEqual(option_names() - mentioned, set())

    def test_commented_options_are_known(self) -> None:
        commented = set(re.findall(r"^\s*#\s+(?:- )?([a-z]\w*): ", EXAMPLE, re.M))
        self.assertTrue(commented)
        self.assertEqual(commented - option_names() - {"some-model"}, set())

    def test_what_is_said_of_defaults(self) -> None:
        # An option that the example gives needlessly has its default value, so copying the example changes nothing.
        service = read_document(EXAMPLE).value["services"][0]
        given = FileOptions.model_validate({"services": [service]}).services[0]
        plain = FileOptions.model_validate({"services": [{"type": "ccm"}]}).services[0]
        for name in (
            "max_request_body",
            "max_request_head",
            "head_timeout",
            "body_timeout",
            "keepalive_timeout",
            "client_stall_timeout",
        ):
            self.assertEqual(getattr(given, name), getattr(plain, name), name)
        self.assertEqual(given.upstream, plain.upstream)
        self.assertEqual(
            (given.ping_interval, given.allow_anonymous), (plain.ping_interval, plain.allow_anonymous)
        )
