"""The values that come out of a file's options."""

from __future__ import annotations

from decimal import Decimal
from ipaddress import IPv4Network

from pydantic import SecretStr
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import (
    DirectOutboundConfig,
    LogConfig,
    ProxyOutboundConfig,
    ServiceLimits,
    UpstreamConfig,
    not_supported,
)
from ccmproxy.policy.prices import OwnPrice, OwnPrices, TokenPrices
from tests.config.checking import HOME, found, loaded

MINIMAL = "services: [{type: ccm}]"


class ValueTests(SynchronousTestCase):
    """What comes out of a valid file."""

    def test_minimal(self) -> None:
        config = loaded(MINIMAL)
        (service,) = config.services
        self.assertEqual(
            (
                service.type,
                service.name,
                service.listen,
                service.listen_port,
                service.endpoint,
                service.users,
            ),
            ("ccm", "ccm 127.0.0.1:8080", "127.0.0.1", 8080, "tcp:8080:interface=127.0.0.1", ()),
        )
        (credential,) = service.credentials
        self.assertEqual((credential.tag, credential.is_default_path), ("default", True))
        self.assertEqual((credential.short_cap, credential.weekly_cap), (99, 99))
        self.assertEqual((service.limits, service.upstream), (ServiceLimits(), UpstreamConfig()))
        self.assertEqual((config.log, config.shutdown_grace, config.path), (LogConfig(), 30, None))

    def test_everything(self) -> None:
        config = loaded(
            """
            services:
              - type: ccm
                tag: main
                endpoint: unix:/run/a.sock
                credentials:
                  - {tag: a, credential_path: a.json, reserve_5h: 10, limit_weekly: 70}
                  - {tag: b, claude_directory: ~/b, limit_5h: 100, reserve_weekly: 99}
                  - {tag: k, api_key_env: KEY, plan_weight: 2}
                users:
                  - {name: u, token: t, credential: b}
                headers: {X: [a, b]}
                upstream:
                  api_url: http://127.0.0.1:1
                  token_url: https://h/t
                  usage_url: https://h/u
                  profile_url: https://h/p
                  ca_path: ca.pem
                  user_agent: x/1
                  connect_timeout: 1s
                  first_byte_timeout: 2
                  idle_timeout: 1.5m
                max_request_body: 1MiB
                max_request_bodies: 5MiB
                max_request_head: 2048
                head_timeout: 3
                body_timeout: 4
                keepalive_timeout: 5
                client_stall_timeout: 6
                ping_interval: 15s
            log: {level: debug, format: json}
            shutdown_grace: 0
            """,
            {"KEY": "the-key"},
        )
        (service,) = config.services
        self.assertEqual(
            (service.name, service.endpoint, service.address),
            ("main", "unix:/run/a.sock", "unix:/run/a.sock"),
        )
        self.assertEqual((service.listen, service.listen_port), (None, None))
        a, b, k = service.credentials
        self.assertEqual((a.credential_path, a.is_default_path), ("/etc/ccm/a.json", False))
        self.assertEqual((a.short_cap, a.weekly_cap), (90, 70))
        self.assertEqual(
            (b.credential_path, b.short_cap, b.weekly_cap), (f"{HOME}/b/.credentials.json", 100, 1)
        )
        assert k.api_key is not None
        self.assertEqual(
            (k.credential_path, k.api_key.get_secret_value(), k.plan_weight), (None, "the-key", 2)
        )
        (user,) = service.users
        self.assertEqual((user.name, user.token.get_secret_value(), user.credential), ("u", "t", "b"))
        self.assertEqual(service.headers, {"X": ("a", "b")})
        self.assertEqual(
            service.upstream,
            UpstreamConfig(
                "http://127.0.0.1:1",
                "https://h/t",
                "https://h/u",
                "https://h/p",
                "/etc/ccm/ca.pem",
                "x/1",
                1,
                2,
                90,
            ),
        )
        self.assertEqual(service.limits, ServiceLimits(1024**2, 5 * 1024**2, 2048, None, 3, 4, 5, 6, 15))
        self.assertEqual((config.log, config.shutdown_grace), (LogConfig("debug", "json"), 0))
        self.assertEqual(config.secret_files, ("/etc/ccm/a.json", f"{HOME}/b/.credentials.json"))

    def test_how_much_is_held(self) -> None:
        """Eight of the largest bodies, and no less than with the default size: small bodies are no reason for less."""
        for option, expected in (
            ("", 512),
            ("max_request_body: 1MiB", 512),
            ("max_request_body: 100MiB", 800),
            ("max_request_body: 1MiB, max_request_bodies: 2MiB", 2),
        ):
            (service,) = loaded(f"services: [{{type: ccm, {option}}}]").services
            self.assertEqual(service.limits.max_request_bodies, expected * 1024**2, option)

    def test_remotes(self) -> None:
        config = loaded(
            """
            services:
              - type: ccm
                credentials:
                  - {tag: a}
                  - {tag: n, type: external, token: t1, url: "https://h/p", server: x, server_port: 5, detour: d}
                  - {tag: r, type: external, token_env: TOKEN, plan_weight: 2.5}
                  - {tag: c, type: external, token: t3, url: "http://h", reverse: true}
                users:
                  - {name: u, token: t, credential: n, allow_external_usage: true, external_credential: r}
                  - {name: v, token: w, credential: a, instance: true}
            outbounds: [{tag: d, type: direct}]
            """,
            {"TOKEN": "t2"},
        )
        (service,) = config.services
        self.assertEqual([each.tag for each in service.credentials], ["a"])
        normal, receiver, connector = service.externals
        self.assertEqual(
            (normal.tag, normal.url, normal.server, normal.server_port), ("n", "https://h/p", "x", 5)
        )
        self.assertIsNotNone(normal.outbound)
        self.assertEqual((normal.is_connector, normal.plan_weight), (False, None))
        self.assertEqual((receiver.tag, receiver.url, receiver.plan_weight), ("r", None, 2.5))
        self.assertEqual((connector.tag, connector.url, connector.is_connector), ("c", "http://h", True))
        self.assertEqual([each.token.get_secret_value() for each in service.externals], ["t1", "t2", "t3"])
        self.assertNotIn("t2", repr(service.externals))
        self.assertEqual(
            [(each.allow_external_usage, each.external_credential, each.instance) for each in service.users],
            [(True, "r", False), (False, None, True)],
        )

    def test_limits_of_a_user(self) -> None:
        config = loaded(
            """
            services:
              - type: ccm
                max_connections_per_user: 9
                users:
                  - {name: u, token: t, models: [claude-sonnet-*, claude-haiku-4-5], max_connections_per_user: 2}
                  - {name: v, token: w, models: "*"}
                  - {name: x, token: y, models: , max_connections_per_user: }
            """
        )
        self.assertEqual(
            [(each.models, each.max_connections_per_user) for each in config.services[0].users],
            [(("claude-sonnet-*", "claude-haiku-4-5"), 2), (("*",), None), ((), None)],
        )

    def test_reserves_of_zero(self) -> None:
        config = loaded("services: [{type: ccm, credentials: [{tag: a, reserve_5h: 0, limit_weekly: 0}]}]")
        self.assertEqual(config.services[0].credentials[0].caps.short, 99)
        self.assertEqual(config.services[0].credentials[0].caps.weekly, 99)

    def test_patience(self) -> None:
        for option, seconds in (
            ("", 5),
            (", patience: 0", 0),
            (", patience: 1500ms", 1.5),
            (", patience: 60", 60),
        ):
            pool = f"{{tag: p, type: balancer, credentials: a{option}}}"
            (service,) = loaded(f"services: [{{type: ccm, credentials: [{{tag: a}}, {pool}]}}]").services
            self.assertEqual(service.pools[0].patience, seconds)

    def test_single_credential(self) -> None:
        config = loaded("services: [{type: ccm, credential_path: ~/x.json, users: [{name: u, token: t}]}]")
        (credential,) = config.services[0].credentials
        self.assertEqual((credential.tag, credential.credential_path), ("default", f"{HOME}/x.json"))
        self.assertEqual(config.services[0].users[0].credential, "default")

    def test_ipv6(self) -> None:
        (service,) = loaded("services: [{type: ccm, listen: '::1'}]").services
        self.assertEqual((service.address, service.endpoint), ("[::1]:8080", r"tcp:8080:interface=\:\:1"))

    def test_anchors(self) -> None:
        config = loaded(
            """
            services:
              - &base {type: ccm, head_timeout: 7}
              - {<<: *base, listen_port: 9000}
            """
        )
        self.assertEqual([each.limits.head_timeout for each in config.services], [7, 7])

    def test_trusted_proxies(self) -> None:
        """Removing its line from the table of unsupported features is all that is needed to use it."""
        text = "services: [{type: ccm, trusted_proxies: [10.0.0.1/8]}]"
        self.assertEqual([each.path for each in found(text)], ["services[0].trusted_proxies"])
        self.patch(not_supported, "NOT_SUPPORTED", ())
        self.assertEqual(loaded(text).services[0].trusted_proxies, (IPv4Network("10.0.0.0/8"),))

    def test_prices(self) -> None:
        """They are ready, and refused until something uses them."""
        text = """
            services: [{type: ccm}]
            prices:
              mine-*: {input: 0.1, output: 2}
              whole:
                {input: 3, output: 15, cache_read: 0.3, cache_write: 3.75, cache_write_1h: 6,
                 long_context: {input: 6, output: 22.5}}
              hour: {input: 3, output: 15, cache_write: 4, long_context: {input: 6, output: 7, above: 1000}}
            """
        self.assertEqual(
            [(each.path, each.message) for each in found(text)], [("prices", "is not supported yet")]
        )
        self.patch(not_supported, "NOT_SUPPORTED", ())
        self.assertEqual(loaded(MINIMAL).prices, OwnPrices())
        entries = dict(loaded(text).prices.entries)
        self.assertEqual(list(entries), ["mine-*", "whole", "hour"])

        def prices(*dollars: str) -> TokenPrices:
            return TokenPrices(*map(Decimal, dollars))

        # 0.1 in the file is 0.1, and what is left out costs what it is a special case of.
        self.assertEqual(entries["mine-*"], OwnPrice(prices("0.1", "2", "0.1", "0.1", "0.1")))
        self.assertEqual(
            entries["whole"],
            OwnPrice(prices("3", "15", "0.3", "3.75", "6"), prices("6", "22.5", "6", "6", "6"), 200_000),
        )
        self.assertEqual(
            entries["hour"], OwnPrice(prices("3", "15", "3", "4", "4"), prices("6", "7", "6", "6", "6"), 1000)
        )

    def test_the_order_of_prices_is_kept(self) -> None:
        """It decides which of two patterns counts, so a reload must see it."""
        self.patch(not_supported, "NOT_SUPPORTED", ())
        text = "{services: [{type: ccm}], prices: {%s, %s}}"
        entries = ("a*: {input: 1, output: 1}", "'*b': {input: 2, output: 2}")
        self.assertEqual(loaded(text % entries), loaded(text % entries))
        self.assertNotEqual(loaded(text % entries), loaded(text % entries[::-1]))


class OutboundTests(SynchronousTestCase):
    """The outbound that a detour refers to."""

    TEXT = """
        outbounds:
          - {tag: d, type: direct, bind_address: "::0001"}
          - {tag: s, type: socks, server: 127.0.0.1, server_port: 1080, username: me, password: s3cr3t}
          - {tag: h, type: http, server: proxy.test, server_port: 3128, tls: true, username: ""}
        services:
          - type: ccm
            credentials: [{tag: a, detour: d}, {tag: b, detour: s}, {tag: c, detour: h}, {tag: e}]
          - {type: ocm, detour: h}
    """

    def test_outbounds(self) -> None:
        several, single = loaded(self.TEXT).services
        direct, socks, http, none = [each.outbound for each in several.credentials]
        self.assertEqual(direct, DirectOutboundConfig("d", "::1"))
        self.assertEqual(
            socks, ProxyOutboundConfig("s", "socks", "127.0.0.1", 1080, "me", SecretStr("s3cr3t"))
        )
        self.assertEqual(http, ProxyOutboundConfig("h", "http", "proxy.test", 3128, tls=True))
        self.assertIsNone(none)
        self.assertEqual(single.credentials[0].outbound, http)
        self.assertNotIn("s3cr3t", repr(several))

    def test_the_name_of_an_outbound_makes_no_difference(self) -> None:
        """Outbounds that differ in anything but the name are different."""
        before = loaded(self.TEXT).services
        renamed = self.TEXT
        for name in "ds":
            self.assertIn(f"detour: {name}}}", renamed)
            renamed = renamed.replace(f"tag: {name},", f"tag: {name}{name},")
            renamed = renamed.replace(f"detour: {name}}}", f"detour: {name}{name}}}")
        self.assertEqual(loaded(renamed).services, before)
        for old, new in (("::0001", "::2"), ("1080", "1081"), ("s3cr3t", "other"), ("true", "false")):
            self.assertNotEqual(loaded(self.TEXT.replace(old, new)).services, before)
