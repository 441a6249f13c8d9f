"""The options themselves: defaults, descriptions, and the JSON schema."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ccmproxy.config.document import read_document
from ccmproxy.config.reference import SECTIONS
from ccmproxy.config.schema import FileOptions, ServiceOptions, json_schema
from tests.source import ROOT

try:
    import jsonschema
except ImportError:  # part of the "test" extra
    jsonschema = None

EXAMPLE = ROOT / "etc" / "ccmproxy.yaml"


class SchemaTests(SynchronousTestCase):
    """The JSON schema accepts and refuses what the loader does."""

    def setUp(self) -> None:
        if jsonschema is None:
            raise SkipTest("jsonschema is not installed")
        self.validator = jsonschema.Draft202012Validator(json_schema())

    def refused(self, document: Any) -> list[str]:
        """Paths of what the JSON schema refuses."""
        return [error.json_path for error in self.validator.iter_errors(document)]

    def test_is_a_schema(self) -> None:
        jsonschema.Draft202012Validator.check_schema(json_schema())

    def test_example(self) -> None:
        self.assertEqual(self.refused(read_document(EXAMPLE.read_text(encoding="utf-8")).value), [])

    def test_every_kind_of_entry(self) -> None:
        credentials: list[Any] = [
            {"tag": "a", "reserve_5h": 10},
            {"tag": "b", "type": "default", "limit_weekly": 100},
            {"tag": "c", "type": "external", "url": "https://h", "token": "t"},
            {"tag": "d", "type": "balancer", "credentials": "a"},
            {"tag": "e", "type": "balancer", "credentials": ["a", "b"], "strategy": "fallback"},
        ]
        outbounds = [
            {"tag": "a", "type": "direct"},
            {"tag": "b", "type": "socks", "server": "h", "server_port": 1},
            {"tag": "c", "type": "http", "server": "h", "server_port": 1, "tls": True},
        ]
        service = {
            "type": "ccm",
            "credentials": credentials,
            "headers": {"A": "b", "C": ["d"]},
            "head_timeout": "5s",
        }
        self.assertEqual(self.refused({"services": [service], "outbounds": outbounds}), [])

    def test_refused(self) -> None:
        for options in (
            {"bogus": 1},
            {"listen_port": 70000},
            {"listen_port": "x"},
            {"credentials": [{"tag": "a", "reserve_5h": 100}]},
            {"credentials": [{"tag": "a", "type": "nope"}]},
            {"credentials": [{"type": "default"}]},
            {"head_timeout": "soon"},
            {"max_request_body": "5 kilos"},
            {"users": [{"token": "t"}]},
            {"users": [{"name": "u", "token": "t", "models": []}]},
            {"users": [{"name": "u", "token": "t", "models": [""]}]},
            {"users": [{"name": "u", "token": "t", "max_connections_per_user": 0}]},
        ):
            self.assertNotEqual(self.refused({"services": [{"type": "ccm", **options}]}), [], options)
        self.assertNotEqual(self.refused({"services": []}), [])


class OptionTests(SynchronousTestCase):
    """What holds for every option."""

    def test_descriptions(self) -> None:
        for heading, _, model in SECTIONS:
            for name, field in model.model_fields.items():
                fixed = name == "type"
                self.assertTrue(field.description or fixed, f"{heading}: {name} has no description")

    def test_defaults_are_valid(self) -> None:
        options = FileOptions.model_validate({"services": [{"type": "ccm"}]})
        again = FileOptions.model_validate({"services": [{"type": "ccm"}], "log": {}, "outbounds": []})
        self.assertEqual(options, again)
        (service,) = options.services
        self.assertEqual(
            (service.max_request_body, service.max_request_head, service.max_connections_per_user),
            (64 * 1024**2, 64 * 1024, None),
        )
        self.assertEqual(
            (service.head_timeout, service.body_timeout, service.keepalive_timeout), (30, 60, 300)
        )
        self.assertEqual(service.client_stall_timeout, 600)
        upstream = service.upstream
        self.assertEqual(
            (upstream.connect_timeout, upstream.first_byte_timeout, upstream.idle_timeout), (10, 600, 600)
        )
        self.assertEqual((options.shutdown_grace, service.ping_interval), (30, 0))

    def test_frozen(self) -> None:
        service = ServiceOptions.model_validate({"type": "ccm"})
        with self.assertRaises(ValidationError):
            service.tag = "x"

    def test_no_secret_in_repr(self) -> None:
        users = [{"name": "u", "token": "s3cr3t"}]
        credentials = [{"tag": "a", "api_key": "s3cr3t"}, {"tag": "b", "type": "external", "token": "s3cr3t"}]
        service = {"type": "ccm", "users": users, "credentials": credentials}
        outbounds = [{"tag": "a", "type": "http", "server": "h", "server_port": 1, "password": "s3cr3t"}]
        options = FileOptions.model_validate({"services": [service], "outbounds": outbounds})
        self.assertNotIn("s3cr3t", repr(options) + str(options))
