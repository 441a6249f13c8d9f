"""Files, the environment, and the values that come out of them; and that nothing but ConfigurationError does."""

from __future__ import annotations

import json
import os
from ipaddress import IPv4Network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import (
    Config,
    ConfigurationError,
    DirectOutboundConfig,
    LogConfig,
    Problem,
    ProxyOutboundConfig,
    ServiceLimits,
    UpstreamConfig,
    default_config,
    load,
    load_text,
    not_supported,
    readable_by_others,
)
from ccmproxy.config.not_supported import is_supported
from ccmproxy.config.reference import option_names
from tests.config.checking import HOME, complaints, found, loaded
from tests.profiles import examples

MINIMAL = "services: [{type: ccm}]"


class FileTests(SynchronousTestCase):
    """load()."""

    def write(self, content: bytes, mode: int = 0o600) -> str:
        """A file, as its absolute path."""
        path: str = os.path.abspath(self.mktemp())
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return path

    def problem(self, path: str) -> Problem:
        """The only problem of a file."""
        with self.assertRaises(ConfigurationError) as caught:
            load(path, environ={}, home=HOME)
        (problem,) = caught.exception.problems
        assert isinstance(problem, Problem)
        self.assertEqual(problem.file, path)
        return problem

    def test_valid(self) -> None:
        path = self.write(MINIMAL.encode())
        config = load(path, environ={}, home=HOME)
        self.assertEqual(config.path, path)
        self.assertEqual(config.secret_files, (path, f"{HOME}/.claude/.credentials.json"))

    def test_sing_box_json(self) -> None:
        document = {
            "services": [
                {
                    "type": "ccm",
                    "tag": "ccm-in",
                    "listen": "127.0.0.1",
                    "listen_port": 9000,
                    "credential_path": "",
                    "usages_path": "",
                    "users": [{"name": "alice", "token": "ak-ccm-hello-world"}],
                    "headers": {"X-A": "b", "X-C": ["d", "e"]},
                    "detour": "",
                    "tls": {},
                }
            ]
        }
        for indent in (None, 2, "\t"):
            path = self.write(b"\xef\xbb\xbf" + json.dumps(document, indent=indent).encode())
            (service,) = load(path, environ={}, home=HOME).services
            self.assertEqual((service.name, service.address), ("ccm-in", "127.0.0.1:9000"))
            self.assertEqual(service.headers, {"X-A": ("b",), "X-C": ("d", "e")})

    def test_unreadable(self) -> None:
        path = os.path.abspath(self.mktemp())
        self.assertEqual(self.problem(path).message, "cannot be read: No such file or directory")
        self.assertEqual(self.problem("a\0b").message, "cannot be read: not a valid path")
        os.mkdir(path)
        self.assertEqual(self.problem(path).message, "cannot be read: Is a directory")

    def test_not_permitted(self) -> None:
        path = self.write(MINIMAL.encode(), 0)
        if os.access(path, os.R_OK):
            return  # root may read everything
        self.assertEqual(self.problem(path).message, "cannot be read: Permission denied")

    def test_not_utf8(self) -> None:
        for content, place in ((b"a: 1\nb: \xff\n", (2, 4)), ("a: 1".encode("utf-16"), (1, 1))):
            problem = self.problem(self.write(content))
            self.assertEqual((problem.message, problem.line, problem.column), ("is not UTF-8 text", *place))

    def test_empty(self) -> None:
        for content in (b"", b"# nothing\n", b"---\n", b"null"):
            self.assertIn("is empty", self.problem(self.write(content)).message)

    def test_not_a_mapping(self) -> None:
        for content in (b"- type: ccm\n", b"hello", b"5", b"true"):
            self.assertIn("must be a mapping", self.problem(self.write(content)).message)

    def test_too_large(self) -> None:
        self.assertIn("too large", self.problem(self.write(b"a: " + b"x" * 2_000_000)).message)

    def test_token_file_beside_the_configuration(self) -> None:
        token = self.write(b"the-token\n")
        text = f"services: [{{type: ccm, users: [{{name: a, token_file: ./{os.path.basename(token)}}}]}}]"
        path = os.path.join(os.path.dirname(token), "ccmproxy.yaml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        config = load(path, environ={}, home=HOME)
        self.assertEqual(config.services[0].users[0].token.get_secret_value(), "the-token")
        self.assertIn(token, config.secret_files)

    def test_readable_by_others(self) -> None:
        closed, group, opened = (self.write(b"x", mode) for mode in (0o600, 0o640, 0o644))
        services = loaded(MINIMAL).services
        config = Config(services, secret_files=(closed, opened, group, "/does/not/exist"))
        self.assertEqual(readable_by_others(config), (opened,))


class ProblemTests(SynchronousTestCase):
    """All at once, each with its place."""

    TEXT = """\
services:
  - type: ccm
    listen: example.org
    listne_port: 1
    credentials:
      - tag: a
        reserve_5h: 120
      - tag: a
        type: extern
    users:
      - name: u
        token: t
        credential: b
      - name: u
log:
  level: loud
  level: info
outbounds: []
shutdown_grace: -1
"""

    def test_all_at_once(self) -> None:
        self.assertEqual(
            [(p.line, p.column, p.path) for p in found(self.TEXT)],
            [
                (3, 5, "services[0].listen"),
                (4, 5, "services[0].listne_port"),
                (7, 9, "services[0].credentials[0].reserve_5h"),
                (8, 9, "services[0].credentials[1].tag"),
                (9, 9, "services[0].credentials[1].type"),
                (13, 9, "services[0].users[0].credential"),
                (14, 9, "services[0].users[1].credential"),
                (14, 9, "services[0].users[1].name"),
                (14, 9, "services[0].users[1].token"),
                (16, 3, "log.level"),
                (17, 3, "log.level"),
                (19, 1, "shutdown_grace"),
            ],
        )

    def test_as_text(self) -> None:
        with self.assertRaises(ConfigurationError) as caught:
            load_text(self.TEXT, "/etc/x.yaml", environ={}, home=HOME)
        lines = str(caught.exception).splitlines()
        self.assertEqual(len(lines), 12)
        self.assertEqual(
            lines[2], "/etc/x.yaml:7: services[0].credentials[0].reserve_5h: must be at most 99, is 120"
        )

    def test_syntax(self) -> None:
        (problem,) = found("services:\n  - type: ccm\n bad")
        self.assertEqual((problem.line, problem.path), (3, ""))
        self.assertIn("is not valid YAML", problem.message)

    def test_duplicate_option(self) -> None:
        self.assertEqual(
            complaints("services:\n- type: ccm\n  tag: a\n  tag: b\n"),
            ["services[0].tag: is given twice (first in line 3)"],
        )


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
                max_request_head: 2048
                head_timeout: 3
                body_timeout: 4
                keepalive_timeout: 5
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
        self.assertEqual(service.limits, ServiceLimits(1024**2, 2048, None, 3, 4, 5, 15))
        self.assertEqual((config.log, config.shutdown_grace), (LogConfig("debug", "json"), 0))
        self.assertEqual(config.secret_files, ("/etc/ccm/a.json", f"{HOME}/b/.credentials.json"))

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
                  - {name: v, token: w, credential: a}
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
            [(each.allow_external_usage, each.external_credential) for each in service.users],
            [(True, "r"), (False, None)],
        )

    def test_reserves_of_zero(self) -> None:
        config = loaded("services: [{type: ccm, credentials: [{tag: a, reserve_5h: 0, limit_weekly: 0}]}]")
        self.assertEqual(config.services[0].credentials[0].caps.short, 99)
        self.assertEqual(config.services[0].credentials[0].caps.weekly, 99)

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
        """The line in the table of what is not supported is all that stands in the way."""
        text = "services: [{type: ccm, trusted_proxies: [10.0.0.1/8]}]"
        self.assertEqual([each.path for each in found(text)], ["services[0].trusted_proxies"])
        self.patch(not_supported, "NOT_SUPPORTED", ())
        self.assertEqual(loaded(text).services[0].trusted_proxies, (IPv4Network("10.0.0.0/8"),))


class OutboundTests(SynchronousTestCase):
    """What a detour comes to."""

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
        """And what it is does."""
        before = loaded(self.TEXT).services
        renamed = self.TEXT
        for name in "ds":
            self.assertIn(f"detour: {name}}}", renamed)
            renamed = renamed.replace(f"tag: {name},", f"tag: {name}{name},")
            renamed = renamed.replace(f"detour: {name}}}", f"detour: {name}{name}}}")
        self.assertEqual(loaded(renamed).services, before)
        for old, new in (("::0001", "::2"), ("1080", "1081"), ("s3cr3t", "other"), ("true", "false")):
            self.assertNotEqual(loaded(self.TEXT.replace(old, new)).services, before)


class SurroundingsTests(SynchronousTestCase):
    """The environment, the home directory, sudo."""

    def path(self, environ: dict[str, str], **homes: str) -> str | None:
        """Where the default credential is looked for."""
        config = default_config(environ, HOME, home_of=homes.get, is_file=lambda path: False)
        return config.services[0].credentials[0].credential_path

    def test_default_path(self) -> None:
        self.assertEqual(self.path({}), f"{HOME}/.claude/.credentials.json")
        self.assertEqual(self.path({"CLAUDE_CONFIG_DIR": "/c"}), "/c/.credentials.json")

    def test_sudo(self) -> None:
        environ = {"SUDO_USER": "bob"}
        self.assertEqual(self.path(environ, bob="/home/bob"), "/home/bob/.claude/.credentials.json")
        self.assertEqual(self.path(environ), f"{HOME}/.claude/.credentials.json")

    def test_sudo_of_the_system(self) -> None:
        for name in ("no-such-user-here", "../etc", ""):
            config = default_config({"SUDO_USER": name}, HOME)
            self.assertEqual(
                config.services[0].credentials[0].credential_path, f"{HOME}/.claude/.credentials.json"
            )

    def test_default_config(self) -> None:
        asked: list[str] = []

        def is_file(path: str) -> bool:
            asked.append(path)
            return True

        config = default_config({"CODEX_HOME": "/codex"}, HOME, is_file=is_file)
        ports = {service.type: service.address for service in config.services}
        if is_supported("services[].type", "ocm"):
            self.assertEqual(ports, {"ccm": "127.0.0.1:8080", "ocm": "127.0.0.1:8081"})
            self.assertEqual(asked, ["/codex/auth.json"])
        else:
            self.assertEqual(ports, {"ccm": "127.0.0.1:8080"})
        self.assertEqual(config.path, None)

    def test_the_process_is_the_default(self) -> None:
        self.patch(os, "environ", {"HOME": "/home/carol", "THE_TOKEN": "t"})
        config = load_text("services: [{type: ccm, users: [{name: a, token_env: THE_TOKEN}]}]", "x")
        self.assertEqual(
            config.services[0].credentials[0].credential_path, "/home/carol/.claude/.credentials.json"
        )


NAMES = st.sampled_from(sorted(option_names() | {"default", "external", "balancer", "<<", "x", "sk-1", ""}))
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 70000),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["ccm", "ocm", "external", "balancer", "socks", "a", "b", "0.0.0.0", "https://h", "tcp:80", "5s", "~"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=25,
)
SERVICES = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["ccm", "ocm"])},
        optional={
            "credentials": st.lists(st.dictionaries(NAMES, VALUES, max_size=5), max_size=3) | VALUES,
            "users": st.lists(st.dictionaries(NAMES, SCALARS, max_size=4), max_size=3) | VALUES,
            "headers": st.dictionaries(st.text(max_size=5), VALUES, max_size=3),
            "endpoint": VALUES,
            "listen": VALUES,
            "upstream": VALUES,
            "tls": VALUES,
        },
    ),
    max_size=3,
)


class GarbageTests(SynchronousTestCase):
    """Whatever stands in a file: a configuration, or ConfigurationError."""

    def survive(self, text: str) -> None:
        """``text`` raises nothing else, and no problem lacks a message."""
        try:
            loaded(text)
        except ConfigurationError as error:
            self.assertTrue(error.problems)
            for problem in error.problems:
                self.assertTrue(problem.message and "\n" not in str(problem), str(problem))

    @examples(200)
    @given(st.dictionaries(NAMES, VALUES, max_size=4))
    def test_documents(self, document: dict[str, Any]) -> None:
        self.survive(json.dumps(document))

    @examples(200)
    @given(SERVICES, VALUES, VALUES)
    def test_services(self, services: list[Any], outbounds: Any, prices: Any) -> None:
        self.survive(json.dumps({"services": services, "outbounds": outbounds, "prices": prices}))

    @examples(200)
    @given(st.text(max_size=60))
    def test_text(self, text: str) -> None:
        self.survive(text)
        self.survive("services:\n  - type: ccm\n    " + text)
