"""Every check that concerns several options at once: what is reported, where, and what is let through."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from tests.config.checking import complaints, found

#: A service with its credentials and users, as one line of YAML each.
SERVICE = "services: [{{type: ccm, {}}}]"
TWO = "credentials: [{tag: a}, {tag: b, credential_path: b.json}]"


class CheckTests(SynchronousTestCase):
    """One table per group: YAML → all complaints about it."""

    def check(self, table: dict[str, list[str]], prefix: str = "services[0].") -> None:
        """``table``: options of one ccm service → its complaints, less ``prefix``."""
        for options, expected in table.items():
            got = [each.removeprefix(prefix) for each in complaints(SERVICE.format(options))]
            self.assertEqual(sorted(got), sorted(expected), options)

    def test_tags(self) -> None:
        self.check(
            {
                "credentials: [{credential_path: x}]": ["credentials[0].tag: is required"],
                "credentials: [{type: nope}]": [
                    "credentials[0].tag: is required",
                    'credentials[0].type: unknown type "nope"; known: default, external, balancer',
                ],
                "credentials: [{tag: ''}]": ["credentials[0].tag: must not be empty"],
                "credentials: [{tag: a}, {tag: a}]": [
                    'credentials[1].tag: the tag "a" is already that of services[0].credentials[0]'
                ],
                "credentials: [{tag: a}, {tag: A}]": [],
            }
        )

    def test_types(self) -> None:
        self.check(
            {
                "credentials: [{tag: a, type: extrenal}]": [
                    'credentials[0].type: unknown type "extrenal"; did you mean "external"?'
                ],
                "credentials: [{tag: a, type: 5}]": [
                    "credentials[0].type: unknown type …; known: default, external, balancer"
                ],
                "credentials: [{tag: a, type: }]": [],
            }
        )
        self.assertEqual(
            complaints("services: [{type: cmm}]"),
            ['services[0].type: unknown type "cmm"; did you mean "ccm"?'],
        )
        self.assertEqual(complaints("services: [{}]"), ["services[0].type: is required"])
        self.assertEqual(
            complaints("{services: [{type: ccm}], outbounds: [{tag: a, type: sock5}, {tag: b}]}"),
            [
                'outbounds[0].type: unknown type "sock5"; did you mean "socks"?',
                "outbounds[1].type: is required: direct, socks, http",
            ],
        )

    def test_reserves_and_limits(self) -> None:
        for window in ("5h", "weekly"):
            self.check(
                {
                    f"credentials: [{{tag: a, reserve_{window}: 120}}]": [
                        f"credentials[0].reserve_{window}: must be at most 99, is 120"
                    ],
                    f"credentials: [{{tag: a, limit_{window}: 101}}]": [
                        f"credentials[0].limit_{window}: must be at most 100, is 101"
                    ],
                    f"credentials: [{{tag: a, reserve_{window}: -1}}]": [
                        f"credentials[0].reserve_{window}: must be at least 0, is -1"
                    ],
                    f"credentials: [{{tag: a, reserve_{window}: 5, limit_{window}: 5}}]": [
                        f'credentials[0].reserve_{window}: cannot be given together with "limit_{window}"'
                    ],
                    f"credentials: [{{tag: a, reserve_{window}: 0, limit_{window}: 5}}]": [],
                    f"credentials: [{{tag: a, reserve_{window}: 99}}, {{tag: b, limit_{window}: 100}}]": [],
                }
            )
        self.check({"credentials: [{tag: a, reserve_5h: 5, limit_weekly: 5}]": []})

    def test_sources_of_an_account(self) -> None:
        self.check(
            {
                "credentials: [{tag: a, credential_path: x, claude_directory: y}]": [
                    'credentials[0].claude_directory: cannot be given together with "credential_path"'
                ],
                "credentials: [{tag: a, claude_directory: y, api_key: k}]": [
                    'credentials[0].api_key: cannot be given together with "claude_directory"'
                ],
                "credentials: [{tag: a, credential_path: '', claude_directory: y}]": [],
                "credentials: [{tag: a, plan_weight: 2}]": [
                    "credentials[0].plan_weight: is for API keys and external credentials:"
                    " an account has that of its plan"
                ],
                "credentials: [{tag: a, plan_weight: 2, api_key: k}]": [],
            }
        )
        self.assertEqual(
            complaints(
                "services: [{type: ocm, credentials: [{tag: a, claude_directory: x, plan_weight: 1}]}]"
            ),
            ["services[0].credentials[0].claude_directory: is for services of type ccm only"],
        )

    def test_external(self) -> None:
        self.check(
            {
                "credentials: [{tag: a, type: external, url: 'https://h'}]": [
                    'credentials[0].token: is required (or "token_file", or "token_env")'
                ],
                "credentials: [{tag: a, type: external, token: t, reverse: true}]": [
                    'credentials[0].reverse: needs "url"'
                ],
                "credentials: [{tag: a, type: external, token: t, server: h, server_port: 5}]": [
                    'credentials[0].server: needs "url"',
                    'credentials[0].server_port: needs "url"',
                ],
                "credentials: [{tag: a, type: external, token: t, url: 'ftp://h'}]": [
                    "credentials[0].url: must begin with https:// (or http://)"
                ],
                "credentials: [{tag: a, type: external, token: t, url: 'https://'}]": [
                    "credentials[0].url: is malformed: it needs a host, for example https://ccm.example.org"
                ],
                "credentials: [{tag: a, type: external, token: t, url: 'https://h', plan_weight: 0}]": [
                    "credentials[0].plan_weight: must be more than 0, is 0"
                ],
                "credentials: [{tag: a, type: external, token: t, reserve_5h: 5}]": [
                    'credentials[0].reserve_5h: unknown option; it is an option of an entry of "credentials"'
                ],
                "credentials: [{tag: a, type: external, token: t, url: 'https://h', plan_weight: -1}]": [
                    "credentials[0].plan_weight: must be more than 0, is -1"
                ],
                "credentials: [{tag: a, type: external, token: t, reverse: false}]": [],
                "credentials: [{tag: a, type: external, token: t}]": [],
                "credentials: [{tag: a, type: external, token: t, url: 'http://h/p', reverse: true}]": [],
            }
        )

    def test_tokens_of_remotes(self) -> None:
        """The token identifies a remote that connects to us, but not one that we connect to."""
        receiver = "{tag: %s, type: external, token: t}"
        normal = "{tag: %s, type: external, token: t, url: 'https://h'}"
        connector = "{tag: %s, type: external, token: t, url: 'https://h', reverse: true}"
        same = ["credentials[1].token: is the same token as that of credentials[0]"]
        for first, second, expected in (
            (receiver, receiver, same),
            (normal, receiver, same),
            (normal, normal, same),
            (connector, receiver, []),
            (receiver, connector, []),
            (connector, connector, []),
        ):
            self.check({f"credentials: [{first % 'a'}, {second % 'b'}]": expected})
        # A user may have the same token, because users are looked up elsewhere.
        self.check(
            {
                f"credentials: [{receiver % 'a'}, {{tag: d}}], users: [{{name: u, token: t, credential: d}}]": []
            }
        )

    def test_users_of_remotes(self) -> None:
        """A user whose own credential is an external one must be allowed to use external credentials."""
        remote = "credentials: [{tag: e, type: external, token: t}]"
        needed = 'users[0].credential: is an external credential: the user needs "allow_external_usage: true"'
        pool = "credentials: [{tag: e, type: external, token: t}, {tag: p, type: balancer, credentials: [e]}]"
        for options, expected in (
            (f"{remote}, users: [{{name: u, token: x, credential: e}}]", [needed]),
            (
                f"{remote}, users: [{{name: u, token: x, credential: e, allow_external_usage: false}}]",
                [needed],
            ),
            (f"{remote}, users: [{{name: u, token: x, credential: e, allow_external_usage: true}}]", []),
            (f"{pool}, users: [{{name: u, token: x, credential: p}}]", []),
        ):
            self.check({options: expected})

    def test_patience(self) -> None:
        pool = "credentials: [{{tag: a}}, {{tag: p, type: balancer, credentials: a, patience: {}}}]"
        self.check(
            {
                pool.format("61"): ["credentials[1].patience: must be at most 60, is 61"],
                pool.format("2m"): ["credentials[1].patience: must be at most 60, is 120"],
                pool.format("-1"): ["credentials[1].patience: must be at least 0, is -1"],
                pool.format("60"): [],
                "credentials: [{tag: a, patience: 5}]": [
                    "credentials[0].patience: unknown option; it is an option of a balancer"
                ],
            }
        )

    def test_pools(self) -> None:
        pool = "credentials: [{{tag: a}}, {{tag: k, api_key: x}}, {{tag: p, type: balancer, {}}}]"
        self.check(
            {
                pool.format("credentials: []"): ["credentials[2].credentials: must hold at least one tag"],
                pool.format("strategy: random"): ["credentials[2].credentials: is required"],
                pool.format("credentials: [a, zz]"): [
                    'credentials[2].credentials[1]: there is no credential "zz"'
                ],
                pool.format("credentials: zz"): [
                    'credentials[2].credentials[0]: there is no credential "zz"'
                ],
                pool.format("credentials: [p]"): [
                    'credentials[2].credentials[0]: "p" is a pool: pools cannot be members of pools'
                ],
                pool.format("credentials: [a, a]"): ['credentials[2].credentials[1]: "a" is listed twice'],
                pool.format("credentials: [5]"): [
                    "credentials[2].credentials[0]: must be text, is a number; put it in quotes"
                ],
                pool.format("credentials: a, strategy: last-used"): [
                    'credentials[2].strategy: unknown strategy "last-used"; did you mean "least-used"?'
                ],
                pool.format("credentials: a, rebalance_threshold: -0.5"): [
                    "credentials[2].rebalance_threshold: must be at least 0, is -0.5"
                ],
                pool.format("credentials: a"): [],
                pool.format("credentials: [a, k], strategy: fallback, rebalance_threshold: 0"): [],
            }
        )
        self.assertEqual(
            complaints("services: [{type: ocm, " + pool.format("credentials: [a, k]") + "}]"),
            [
                'services[0].credentials[2].credentials[1]: "k" has an API key:'
                " Codex API keys cannot be members of a pool"
            ],
        )

    def test_users(self) -> None:
        self.check(
            {
                "users: [{name: u, token: t}, {name: u, token: t2}]": [
                    'users[1].name: the name "u" is already that of services[0].users[0]'
                ],
                "users: [{name: u, token: same}, {name: v, token: same}]": [
                    "users[1].token: is the same token as that of users[0]"
                ],
                "users: [{token: t}]": ["users[0].name: is required"],
                "users: [{name: u}]": ['users[0].token: is required (or "token_file", or "token_env")'],
                f"{TWO}, users: [{{name: u, token: t}}]": [
                    "users[0].credential: is required where there is more than one credential"
                ],
                f"{TWO}, users: [{{name: u, token: t, credential: c}}]": [
                    'users[0].credential: there is no credential "c"'
                ],
                f"{TWO}, users: [{{name: u, token: t, credential: a, external_credential: b}}]": [
                    'users[0].external_credential: "b" is not an external credential'
                ],
                f"{TWO}, users: [{{name: u, token: t, credential: a, external_credential: zz}}]": [
                    'users[0].external_credential: there is no credential "zz"'
                ],
                "users: [{name: u, token: t, credential: other}]": [
                    'users[0].credential: there is no credential "other"'
                ],
                "users: [{name: u, token: t, credential: default}]": [],
                "credentials: [{tag: a}], users: [{name: u, token: t}]": [],
                f"{TWO}, users: [{{name: u, token: t, credential: b}}]": [],
                "credentials: [{tag: a}, {tag: e, type: external, token: t}],"
                " users: [{name: u, token: t, credential: a, external_credential: e}]": [],
            }
        )

    def test_single_mode_and_credentials(self) -> None:
        together = 'cannot be given together with "credentials": move "{0}" into one of its entries'
        self.check(
            {
                "credential_path: x, credentials: [{tag: a}]": [
                    "credential_path: " + together.format("credential_path")
                ],
                "usages_path: x, credentials: [{tag: a}]": ["usages_path: " + together.format("usages_path")],
                "detour: x, credentials: [{tag: a}]": [
                    "detour: " + together.format("detour"),
                    'detour: there is no outbound "x"',
                ],
                "credential_path: '', usages_path: '', detour: '', credentials: [{tag: a}]": [],
                "credential_path: x, credentials: []": [],
            }
        )

    def test_detours_and_outbounds(self) -> None:
        text = "{services: [{type: ccm, credentials: [{tag: a, detour: offce}]}], outbounds: [%s]}"
        office = "{tag: office, type: direct}"
        self.assertEqual(
            complaints(text % office),
            ['services[0].credentials[0].detour: there is no outbound "offce"; did you mean "office"?'],
        )
        self.assertEqual(complaints((text % office).replace("offce", "office")), [])
        self.assertEqual(
            complaints(f"{{services: [{{type: ccm}}], outbounds: [{office}, {office}]}}"),
            ['outbounds[1].tag: the tag "office" is already that of outbounds[0]'],
        )
        self.assertEqual(
            complaints("{services: [{type: ccm}], outbounds: [{tag: a, type: socks, password: p}]}"),
            [
                "outbounds[0].server: is required",
                "outbounds[0].server_port: is required",
                'outbounds[0].password: needs "username"',
            ],
        )

    def test_logins_that_a_proxy_cannot_be_told(self) -> None:
        def login(kind: str, username: str, password: str) -> list[str]:
            entry = {"tag": "a", "type": kind, "server": "h", "server_port": 1}
            outbound = {**entry, "username": username, "password": password}
            return complaints(json.dumps({"services": [{"type": "ccm"}], "outbounds": [outbound]}))

        long = "x" * 256
        for kind in ("socks", "http"):
            self.assertEqual(
                login(kind, "me", "p\tq"), ["outbounds[0].password: must not contain control characters"]
            )
            self.assertEqual(login(kind, "x" * 255, "p:" + "x" * 253), [])
        self.assertEqual(login("http", long, long), [])
        self.assertEqual(
            login("socks", "ä" * 128, long),
            [
                "outbounds[0].username: must be at most 255 bytes",
                "outbounds[0].password: must be at most 255 bytes",
            ],
        )
        self.assertEqual(login("socks", "a:b", "p"), [])
        self.assertEqual(
            login("http", "a:b", "p"),
            ["outbounds[0].username: must not contain a colon: it ends the user name"],
        )

    def test_addresses(self) -> None:
        for first, second, problem in (
            ("", "", "services[1].listen_port: 127.0.0.1:8080 is already the address of services[0]"),
            ("", "listen_port: 8081", None),
            ("listen: '::1'", "", None),
            (
                "",
                "listen: 127.0.0.1",
                "services[1].listen: 127.0.0.1:8080 is already the address of services[0]",
            ),
            (
                "",
                'endpoint: "tcp:8080:interface=127.0.0.1"',
                "services[1].endpoint: tcp:8080:interface=127.0.0.1 is already the address of services[0]",
            ),
            ("endpoint: 'unix:/a'", "endpoint: 'unix:/b'", None),
            ("listen_port: 0", "listen_port: 0, listen: '::1'", None),
            (
                "endpoint: 'systemd:domain=INET:index=0', allow_anonymous: true",
                "endpoint: 'systemd:domain=INET:index=0', allow_anonymous: true",
                "services[1].endpoint: systemd:domain=INET:index=0 is already the address of services[0]",
            ),
        ):
            text = f"services: [{{type: ccm, {first}}}, {{type: ccm, {second}}}]"
            self.assertEqual(complaints(text), [problem] if problem else [], text)
        self.assertEqual(complaints("services: [{type: ccm}, {type: ocm}]"), [])

    def test_endpoint_and_listen(self) -> None:
        self.check(
            {
                "endpoint: 'unix:/a', listen: 127.0.0.1, listen_port: 80": [
                    'listen: cannot be given together with "endpoint"',
                    'listen_port: cannot be given together with "endpoint"',
                ],
                "endpoint: 'tcp:x'": ["endpoint: needs a port from 0 to 65535 after its first colon"],
                "listen: example.org": [
                    'listen: must be an IP address, for example "127.0.0.1", "0.0.0.0" or "::"'
                ],
                "listen_port: 65536": ["listen_port: must be at most 65535, is 65536"],
            }
        )

    def test_anonymous(self) -> None:
        for address, option in (
            ("listen: 0.0.0.0", "listen"),
            ("listen: '::'", "listen"),
            ("listen: 10.0.0.1", "listen"),
            ("endpoint: 'tcp:8080'", "endpoint"),
            ("endpoint: 'haproxy:tcp:8080'", "endpoint"),
            ("endpoint: 'systemd:domain=INET:index=0'", "endpoint"),
        ):
            (complaint,) = complaints(SERVICE.format(address))
            self.assertTrue(
                complaint.startswith(f"services[0].{option}: others can reach this address"), complaint
            )
            (complaint,) = complaints(SERVICE.format(f"{address}, users: []"))
            for allowed in ("allow_anonymous: true", "users: [{name: u, token: t}]"):
                self.assertEqual(complaints(SERVICE.format(f"{address}, {allowed}")), [])
        for address in ("listen: '::1'", "endpoint: 'unix:/a'", "endpoint: 'tcp:8080:interface=127.0.0.1'"):
            self.assertEqual(complaints(SERVICE.format(address)), [])

    def test_tls(self) -> None:
        self.check(
            {
                "tls: {}": [],
                "tls: {enabled: false}": [],
                "tls: {enabled: true}": [
                    "tls.certificate_path: is required to serve TLS",
                    "tls.key_path: is required to serve TLS",
                ],
                "tls: {certificate_path: a, key_path: b, min_version: 1.2}": [],
                "tls: {certificate_path: a, key_path: b, min_version: 1.1}": [
                    "tls.min_version: unknown min_version …; known: 1.2, 1.3"
                ],
            }
        )

    def test_upstream(self) -> None:
        message = 'must be https unless it leads to a loopback address (or "allow_insecure: true" is set)'
        for option in ("api_url", "token_url", "usage_url", "profile_url"):
            self.check(
                {
                    f"upstream: {{{option}: 'http://h'}}": [f"upstream.{option}: {message}"],
                    f"upstream: {{{option}: 'http://127.0.0.1:9'}}": [],
                    f"upstream: {{{option}: 'http://[::1]:9/x'}}": [],
                    f"upstream: {{{option}: 'http://localhost'}}": [],
                    f"upstream: {{{option}: 'http://h', allow_insecure: true}}": [],
                    f"upstream: {{{option}: 'https://h'}}": [],
                    f"upstream: {{{option}: 'h'}}": [
                        f"upstream.{option}: must begin with https:// (or http://)"
                    ],
                }
            )

    def test_headers(self) -> None:
        self.check(
            {
                "headers: {X-A: a, X-B: [b, c], x-c: ''}": [],
                "headers: {X-A: a, x-a: b}": [
                    "headers.x-a: is given twice (upper and lower case are the same)"
                ],
                "headers: {'X A': a}": ["headers.…: is not a valid header name"],
                "headers: {Transfer-Encoding: chunked}": [
                    "headers.Transfer-Encoding: cannot be set: the proxy sets this header itself"
                ],
                "headers: {X-A: []}": ["headers.X-A: must have a value"],
                'headers: {X-A: ["a", "b\\r\\nX-B: c"]}': [
                    "headers.X-A: has a value that a header cannot hold (control characters, or spaces at its ends)"
                ],
                "headers: {X-A: 5}": ["headers.X-A: must be a list, is a number"],
                "headers: 5": ["headers: must be a mapping, is a number"],
            }
        )

    def test_sizes(self) -> None:
        """One user may hold half of all bodies, and that is at least one of the largest."""
        too_small = [
            "max_request_bodies: must be at least twice max_request_body: one user can have half of it"
        ]
        self.check(
            {
                "max_request_bodies: 128MiB": [],
                "max_request_bodies: 127MiB": too_small,
                "max_request_bodies: 127MiB, max_request_body:": too_small,
                "max_request_bodies: 10, max_request_body: 5": [],
                "max_request_bodies: 9, max_request_body: 5": too_small,
                "max_request_bodies: , max_request_body: 16GiB": [],
                "max_request_bodies: [1]": ["max_request_bodies: must be a whole number, is a list"],
            }
        )

    def test_prices(self) -> None:
        for prices, expected in (
            ("{}", []),
            ("5", ["prices: must be a mapping, is a number"]),
            ("{a: {input: 1, output: 2}, 'a*': {input: 1, output: 2}}", []),
            (
                "{Big: {input: 1, output: 2}, big: {input: 1, output: 2}}",
                ['prices.big: is the same model as "Big"'],
            ),
        ):
            text = f"{{services: [{{type: ccm}}], prices: {prices}}}"
            self.assertEqual(complaints(text), expected, prices)

    def test_a_wrong_value_hides_nothing(self) -> None:
        text = """
        services:
          - type: ccm
            listen: 5
            users: {a: b}
            credentials: oops
          - 7
          - type: ccm
            users: [5, {name: [], token: {}, credential: []}]
            credentials: [5, {tag: [], detour: {}, type: {}}, {tag: a, type: balancer, credentials: {}}]
            headers: [1]
            tls: 5
            upstream: []
            endpoint: 9
        outbounds: {}
        """
        paths = {problem.path for problem in found(text)}
        for path in (
            "services[0].listen",
            "services[0].users",
            "services[0].credentials",
            "services[1]",
            "services[2].users[0]",
            "services[2].users[1].name",
            "services[2].users[1].token",
            "services[2].users[1].credential",
            "services[2].credentials[0]",
            "services[2].credentials[1].type",
            "services[2].credentials[2].credentials",
            "services[2].headers",
            "services[2].tls",
            "services[2].upstream",
            "services[2].endpoint",
            "outbounds",
        ):
            self.assertIn(path, paths)
