"""The schema's complaints, in an operator's words."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import schema
from ccmproxy.config.credential_options import BalancerCredential, DefaultCredential, ExternalCredential
from ccmproxy.config.outbound_options import SocksOutboundOptions
from ccmproxy.config.problems import Report
from ccmproxy.config.shape import check_shape, options_at, value_at
from tests.config.checking import complaints


class ShapeTests(SynchronousTestCase):
    """Types, bounds, names."""

    def one(self, text: str) -> str:
        """The only complaint about a ccm service with these options."""
        (complaint,) = complaints(f"services: [{{type: ccm, {text}}}]")
        return complaint.removeprefix("services[0].")

    def test_types(self) -> None:
        for text, expected in (
            ("tag: 5", "tag: must be text, is a number; put it in quotes"),
            ("tag: true", "tag: must be text, is true or false; put it in quotes"),
            ("tag: [a]", "tag: must be text, is a list"),
            ("listen_port: x", "listen_port: must be a whole number, is text"),
            ("listen_port: 1.5", "listen_port: must be a whole number, is a number"),
            ("listen_port: true", "listen_port: must be a whole number, is true or false"),
            ("allow_anonymous: yes", "allow_anonymous: must be true or false, is text"),
            ("allow_anonymous: 1", "allow_anonymous: must be true or false, is a number"),
            ("head_timeout: [1]", "head_timeout: must be a number, is a list"),
            ("head_timeout: .inf", "head_timeout: must be a finite number"),
            ("head_timeout: .nan", "head_timeout: must be a finite number"),
            ("users: {a: b}", "users: must be a list, is a mapping"),
            ("upstream: x", "upstream: must be a mapping, is text"),
            ("credentials: [x]", "credentials[0]: must be a mapping, is text"),
            ("users: [[]]", "users[0]: must be a mapping, is a list"),
        ):
            self.assertEqual(self.one(text), expected)

    def test_bounds(self) -> None:
        for text, expected in (
            ("listen_port: -1", "listen_port: must be at least 0, is -1"),
            ("max_request_body: 0", "max_request_body: must be at least 1, is 0"),
            ("max_request_head: 1GiB", "max_request_head: must be at most 1.67772e+07, is 1.07374e+09"),
            ("head_timeout: 0", "head_timeout: must be at least 0.001, is 0"),
            ("head_timeout: 365d", "head_timeout: must be at most 2.592e+06, is 3.1536e+07"),
            ("ping_interval: -1", "ping_interval: must be at least 0, is -1"),
        ):
            self.assertEqual(self.one(text), expected)

    def test_other_values(self) -> None:
        for text, begin in (
            ("max_request_body: 5 kilos", "max_request_body: must be a number of bytes"),
            ("head_timeout: soon", "head_timeout: must be a number of seconds"),
            ("trusted_proxies: [x]", "trusted_proxies[0]: must be an IP address or a network"),
            ("credential_path: ~bob/x", "credential_path: must not begin with ~ and a user's name"),
            ('credential_path: "a\\0b"', "credential_path: must not contain a null character"),
            ('tag: "a\\nb"', "tag: must be at most 100 printable characters"),
            ("upstream: {user_agent: 'a\\tb '}", "upstream.user_agent: must be printable ASCII"),
            (
                "users: [{name: u, token_env: ''}]",
                "users[0].token_env: must be the name of an environment variable",
            ),
        ):
            found = complaints(f"services: [{{type: ccm, {text}}}]")
            self.assertTrue(any(each.startswith(f"services[0].{begin}") for each in found), (text, found))

    def test_unknown_options(self) -> None:
        for text, expected in (
            ("lisen: 5", 'lisen: unknown option; did you mean "listen"?'),
            ("frobnicate: 5", "frobnicate: unknown option"),
            ("reserve_5h: 5", 'reserve_5h: unknown option; it is an option of an entry of "credentials"'),
            ("api_url: x", 'api_url: unknown option; it is an option of a service\'s "upstream"'),
            ("services: []", "services: unknown option; it is an option of the top of the file"),
            ("upstream: {api_ulr: x}", 'upstream.api_ulr: unknown option; did you mean "api_url"?'),
            ("tls: {enabled: false, cert: x}", "tls.cert: unknown option"),
            ("users: [{name: u, token: t, nam: x}]", 'users[0].nam: unknown option; did you mean "name"?'),
            ("credentials: [{tag: a, default: 5}]", "credentials[0].default: unknown option"),
            ("x:y", "…: unknown option; is there a space missing after a colon?"),
        ):
            self.assertTrue(
                self.one(text).startswith(expected.partition('did you mean "service')[0]), self.one(text)
            )

    def test_top_level(self) -> None:
        for text, expected in (
            ("log: {level: info}", "services: is required"),
            ("services: []", "services: must hold at least one"),
            ("services: 5", "services: must be a list, is a number"),
            ("{services: [{type: ccm}], log: {level: trace}}", 'log.level: unknown level "trace"'),
            ("{services: [{type: ccm}], shutdown_grace: -1}", "shutdown_grace: must be at least 0, is -1"),
            ("{services: [{type: ccm}], prices: {m: {input: 1}}}", "prices.m.output: is required"),
            (
                "{services: [{type: ccm}], prices: {m: {input: -1, output: 1}}}",
                "prices.m.input: must be at least 0",
            ),
            (
                "{services: [{type: ccm}], prices: {m: {input: .nan, output: 1}}}",
                "prices.m.input: must be a finite number",
            ),
            (
                "{services: [{type: ccm}], prices: {m: {input: 1, output: .inf}}}",
                "prices.m.output: must be a finite number",
            ),
            (
                "{services: [{type: ccm}], prices: {m: {input: 1, output: 1000001}}}",
                "prices.m.output: must be at most 1e+06",
            ),
            (
                "{services: [{type: ccm}], prices: {m: {input: 1, outptu: 1, output: 1}}}",
                'prices.m.outptu: unknown option; did you mean "output"?',
            ),
            (
                "{services: [{type: ccm}], prices: {m: {input: 1, output: 1, long_context: {input: 1}}}}",
                "prices.m.long_context.output: is required",
            ),
            (
                "{services: [{type: ccm}], prices:"
                " {m: {input: 1, output: 1, long_context: {input: 1, output: 1, abov: 5}}}}",
                'prices.m.long_context.abov: unknown option; did you mean "above"?',
            ),
            (
                "{services: [{type: ccm}], prices:"
                " {m: {input: 1, output: 1, long_context: {input: 1, output: 1, above: 0}}}}",
                "prices.m.long_context.above: must be at least 1, is 0",
            ),
            (
                "{services: [{type: ccm}], prices: {' ': {input: 1, output: 1}}}",
                "prices.…: must not be empty",
            ),
        ):
            (complaint,) = complaints(text)
            self.assertTrue(complaint.startswith(expected), complaint)

    def test_null_is_left_out(self) -> None:
        self.assertEqual(
            complaints("{services: [{type: ccm, users: , tls: , headers: ~, tag: null}], log: }"), []
        )
        self.assertEqual(self.one("frobnicate: null"), "frobnicate: unknown option")

    def test_valid(self) -> None:
        options = check_shape({"services": [{"type": "ccm", "headers": {"A": "b"}}]}, Report("f", {}))
        assert options is not None
        self.assertEqual(options.services[0].headers, {"A": ["b"]})

    def test_every_mapping_has_its_options(self) -> None:
        document = {
            "services": [
                {
                    "credentials": [{}, {"type": "external"}, {"type": "balancer"}, {"type": "x"}],
                    "users": [{}],
                }
            ],
            "outbounds": [{"type": "socks"}, {}],
        }
        service = ("services", 0)
        for path, model in (
            ((), schema.FileOptions),
            (("log",), schema.LogOptions),
            (("prices", "m"), schema.PriceOptions),
            (("prices", "m", "long_context"), schema.LongContextOptions),
            (("prices",), None),
            (("outbounds", 0), SocksOutboundOptions),
            (("outbounds", 1), None),
            (service, schema.ServiceOptions),
            ((*service, "tls"), schema.TLSOptions),
            ((*service, "upstream"), schema.UpstreamOptions),
            ((*service, "users", 0), schema.UserOptions),
            ((*service, "credentials", 0), DefaultCredential),
            ((*service, "credentials", 1), ExternalCredential),
            ((*service, "credentials", 2), BalancerCredential),
            ((*service, "credentials", 3), None),
            ((*service, "headers"), None),
        ):
            self.assertIs(options_at(path, document), model, path)

    def test_value_at(self) -> None:
        self.assertEqual(value_at(("a", 1, "b"), {"a": [0, {"b": 5}]}), 5)
        for path in (("a", 2), ("b",), ("a", "b"), (0,), ("a", 0, "x")):
            self.assertIsNone(value_at(path, {"a": [0, {"b": 5}]}))
