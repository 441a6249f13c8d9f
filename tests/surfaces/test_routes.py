"""Tests of authentication and routing (spec 2, 4.1, 11)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.surfaces.routes import CROSS_ORIGIN
from tests.conversation import ANONYMOUS, TOKEN, Client, Response, World, message_request

#: What the upstream is asked when an account starts: its usage, and whose login it is (spec 12.5).
AT_START = ["usage", "profile"]
API_KEY_REFUSED = "API key authentication is not supported; use Authorization: Bearer with a CCM user token"


class RoutesCase(SynchronousTestCase):
    """Checks that several tests make of an answer."""

    def request(self, world: World, line: str, *headers: str, client: Client | None = None) -> Response:
        """Return the answer to a request with this request line (without a version) and no body."""
        lines = [f"{line} HTTP/1.1", "Host: proxy", *headers]
        client = world.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n", client)
        return client.responses()[-1]

    def assert_error(self, response: Response, status: int, kind: str, message: str = "") -> None:
        """An error in the dialect's shape."""
        self.assertEqual((response.status, response.json()["type"]), (status, "error"))
        self.assertEqual(response.error["type"], kind)
        if message:
            self.assertEqual(response.error["message"], message)
        self.assertEqual(response.header("content-type"), "application/json")
        self.assertRegex(response.header("x-ccm-request-id") or "", "^req_")
        self.assertEqual(response.json()["request_id"], response.header("x-ccm-request-id"))
        self.assertTrue(response.header("x-ccm-error"))


class PathTests(RoutesCase):
    """Spec 2: the paths that are served."""

    def test_probes(self) -> None:
        """Requests that clients make before they have a credential are answered at once, and are no failed attempts."""
        world = World(self)
        for line in ("GET /", "HEAD /", "HEAD /api/hello", "GET /?x=1"):
            for _ in range(20):
                client = world.send(f"{line} HTTP/1.1\r\nHost: proxy\r\n\r\n".encode())
                self.assertTrue(client.received.startswith(b"HTTP/1.1 200 "), line)
                self.assertTrue(client.received.endswith(b"\r\n\r\n"), line)
                self.assertIn(b"\r\nContent-Length: 0\r\n", client.received)
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(len(world.simulator.requests.of("turn")), 1)

    def test_unknown_paths(self) -> None:
        world = World(self)
        for line in (
            "GET /v1",
            "GET /v2/messages",
            "POST /",
            "GET /api/hello",
            "GET /favicon.ico",
            "GET //v1/messages",
            "GET /V1/messages",
            "GET /ocm/v1/status",
            "GET /ccm/v1/status/",
            "GET /ccm/v1/nothing",
            "GET /api/oauth/profile",
            "OPTIONS *",
            "GET /%76%31/messages",
        ):
            response = self.request(world, line, f"Authorization: Bearer {TOKEN}")
            self.assert_error(response, 404, "not_found_error")
            self.assertEqual(response.header("x-ccm-error"), "not_found")
        self.assertEqual([r.endpoint for r in world.simulator.requests], AT_START)

    def test_dot_segments_do_not_leave_the_folder(self) -> None:
        """The token of the account must not reach endpoints that are not served here."""
        world = World(self)
        for path in (
            "/v1/../api/oauth/usage",
            "/v1/./messages",
            "/v1/%2e%2e/api/oauth/profile",
            "/v1/.%2E/api",
            "/v1/..%2fapi",
            "/v1/..%5Capi",
            "/v1/..\\api",
            "/v1/a/..",
        ):
            self.assert_error(
                self.request(world, f"GET {path}", f"Authorization: Bearer {TOKEN}"), 404, "not_found_error"
            )
        self.assertEqual([r.endpoint for r in world.simulator.requests], AT_START)

    def test_methods(self) -> None:
        """Spec 14: no TRACE, nor what no upstream has; nothing of such a request reaches an upstream."""
        world = World(self)
        for method in ("TRACE", "trace", "get", "PROPFIND", "TRACK", "DEBUG"):
            for path in ("/v1/messages", "/", "/ccm/v1/status"):
                response = self.request(world, f"{method} {path}", f"Authorization: Bearer {TOKEN}")
                self.assert_error(response, 405, "invalid_request_error")
                self.assertEqual(response.header("x-ccm-error"), "method_not_allowed")
                self.assertEqual(response.header("allow"), "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
        self.assertEqual([r.endpoint for r in world.simulator.requests], AT_START)
        response = self.request(world, "CONNECT /v1/messages", f"Authorization: Bearer {TOKEN}")
        self.assertEqual(response.status, 501)
        for method in ("DELETE", "PATCH", "PUT", "OPTIONS", "HEAD"):
            before = len(world.simulator.requests)
            self.request(world, f"{method} /v1/models/x", f"Authorization: Bearer {TOKEN}")
            self.assertEqual(len(world.simulator.requests), before + 1, method)

    def test_paths_that_could_be_read_as_others(self) -> None:
        """Spec 14: no decoding takes the account's token out of /v1/ (more of them: tests/surfaces/test_paths.py)."""
        world = World(self)
        for path in (
            "/v1/..;/api/oauth/usage",
            "/v1/%252e%252e/api/oauth/usage",
            "/v1/%c0%ae%c0%ae/api/oauth/usage",
            "/v1/..%00/api/oauth/usage",
            "/v1/%u002e%u002e/api",
            "/v1//api/oauth/usage",
        ):
            self.assert_error(
                self.request(world, f"GET {path}", f"Authorization: Bearer {TOKEN}"), 404, "not_found_error"
            )
        self.assertEqual([r.endpoint for r in world.simulator.requests], AT_START)

    def test_a_refused_upgrade_ends_the_connection(self) -> None:
        """Spec 10, F69: whoever refuses, and why; some clients read such an answer until the connection ends."""
        world = World(self)
        upgrade = ("Connection: Upgrade", "Upgrade: websocket")
        for line, upgrades, token, status in (
            ("GET /v1/models", upgrade, TOKEN, 200),  # Claude has no WebSockets
            ("GET /v1/models", upgrade, "wrong", 401),
            ("GET /nowhere", upgrade, TOKEN, 404),
            ("GET /ccm/v1/status", upgrade, TOKEN, 200),
            ("GET /ccm/v1/reverse", ("Connection: Upgrade", "Upgrade: reverse-proxy"), "wrong", 401),
            ("GET /ccm/v1/reverse", ("Upgrade: reverse-proxy",), TOKEN, 400),
        ):
            client, _ = world.connect()
            response = self.request(world, line, f"Authorization: Bearer {token}", *upgrades, client=client)
            self.assertEqual((response.status, response.header("connection")), (status, "close"), line)
            self.assertTrue(client.broken, line)

    def test_another_version_of_http_is_no_other_protocol(self) -> None:
        """Clients that offer HTTP/2 in every first request go on in HTTP/1.1 (RFC 9113 section 3.1)."""
        world = World(self)
        client, _ = world.connect()
        upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
        for number in (1, 2):
            self.request(world, "GET /v1/models", f"Authorization: Bearer {TOKEN}", *upgrade, client=client)
            self.assertEqual([each.status for each in client.responses()], [200] * number)
        self.assertFalse(client.broken)

    def test_dots_that_are_no_segments(self) -> None:
        world = World(self)
        for path in ("/v1/models/claude..opus", "/v1/models?x=/../y", "/v1/..."):
            self.request(world, f"GET {path}", f"Authorization: Bearer {TOKEN}")
            self.assertEqual(world.simulator.requests[-1].target, path.encode())

    def test_absolute_targets(self) -> None:
        """RFC 9112 section 3.2.2: servers accept the absolute form; the origin form is passed on."""
        world = World(self)
        for target, expected in (
            ("http://proxy/v1/models?limit=5", b"/v1/models?limit=5"),
            ("HTTPS://proxy:8080/v1/models", b"/v1/models"),
        ):
            response = self.request(world, f"GET {target}", f"Authorization: Bearer {TOKEN}")
            self.assertEqual(response.status, 200)
            self.assertEqual(world.simulator.requests[-1].target, expected)
        self.assertEqual(self.request(world, "GET http://proxy").status, 200)
        self.assertEqual(self.request(world, "GET http://proxy/").status, 200)
        self.assertEqual(self.request(world, "GET http://proxy?a=/v1/models").status, 200)
        response = self.request(world, "GET http://proxy/v1/../api", f"Authorization: Bearer {TOKEN}")
        self.assertEqual(response.status, 404)

    def test_malformed_requests_are_answered_in_shape(self) -> None:
        world = World(self)
        for data, status in (
            (b"nonsense\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", 400),
            (b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 70_000 + b"\r\n\r\n", 431),
        ):
            client = world.send(data)
            response = client.responses()[0]
            self.assert_error(response, status, "invalid_request_error")
            world.network.advance(5)
            self.assertTrue(client.broken)

    def test_what_is_refused_can_be_found_in_the_log(self) -> None:
        world = World(self)
        for response in (
            self.request(world, "GET /nowhere", "Authorization: Bearer hush"),
            self.request(world, "GET /v1/models", "Authorization: Bearer hush"),
        ):
            self.assertIn(response.header("x-ccm-request-id"), [e.get("request_id") for e in world.events])
        self.assertNotIn("hush", world.logged())

    def test_a_service_that_shuts_down(self) -> None:
        """Requests in flight are answered, later ones on the same connection are not, and new ones are refused."""
        world = World(self)
        client, _ = world.connect()
        world.ask("[[simulate:slow;seconds=5]]", client=client)
        world.send(message_request(), client)
        world.service.stopService()
        world.network.advance(5)
        response = client.responses()[0]
        self.assertEqual((response.status, response.header("connection")), (200, "close"))
        world.network.advance(10)
        self.assertEqual(len(client.responses()), 1)
        self.assertTrue(client.broken)
        self.assertEqual(len(world.simulator.requests.of("turn")), 1)

    def test_a_request_that_a_drained_service_still_gets(self) -> None:
        world = World(self)
        world.entry.routes.closing = True
        client = world.ask()
        self.assert_error(client.responses()[0], 503, "api_error")
        self.assertEqual(client.responses()[0].header("connection"), "close")
        self.assertEqual(client.responses()[0].header("x-ccm-error"), "shutting_down")


class AuthenticationTests(RoutesCase):
    """Spec 4.1 points 2 and 3."""

    def test_strangers(self) -> None:
        world = World(self)
        for headers, message in (
            ((), "missing api key"),
            (("Authorization: ",), "missing api key"),
            (("Authorization: Basic YTpi",), "invalid api key format"),
            ((f"Authorization: {TOKEN}",), "invalid api key format"),
            (("Authorization: Bearer",), "invalid api key format"),
            (("Authorization: Bearer wrong",), "invalid api key"),
            ((f"Authorization: Bearer {TOKEN}x",), "invalid api key"),
            ((f"Authorization: Bearer {TOKEN[:-1]}",), "invalid api key"),
        ):
            response = self.request(world, "POST /v1/messages", "Content-Length: 0", *headers)
            self.assert_error(response, 401, "authentication_error", message)
            self.assertEqual(response.header("x-should-retry"), "false")
            self.assertEqual(response.header("x-ccm-error"), "unauthenticated")
        self.assertEqual(world.simulator.requests.of("turn"), [])
        self.assertNotIn("wrong", world.logged())

    def test_api_keys(self) -> None:
        world = World(self)
        for name in ("X-Api-Key", "api-key"):
            response = self.request(world, "GET /v1/models", f"{name}: sk-ant-secret")
            self.assert_error(response, 400, "invalid_request_error", API_KEY_REFUSED)
            self.assertEqual(self.request(world, "GET /v1/models", f"{name}: {TOKEN}").status, 200)
        both = self.request(world, "GET /v1/models", "X-Api-Key: sk", f"Authorization: Bearer {TOKEN}")
        self.assertEqual(both.status, 400)
        for request in world.simulator.requests:
            self.assertIsNone(request.header(b"x-api-key"))
        self.assertNotIn("sk-ant-secret", world.logged())

    def test_an_empty_key_is_none(self) -> None:
        """Some SDKs that have a token also send an empty key."""
        world = World(self)
        headers = ("X-Api-Key: ", f"Authorization: Bearer {TOKEN}")
        self.assertEqual(self.request(world, "GET /v1/models", *headers).status, 200)
        self.assertEqual(self.request(world, "GET /v1/models", "X-Api-Key:").status, 401)

    def test_bearer_in_any_case(self) -> None:
        world = World(self)
        self.assertEqual(self.request(world, "GET /v1/models", f"authorization: bEARER  {TOKEN}").status, 200)

    def test_without_users(self) -> None:
        """Every client is admitted with any token; but a key is refused, so that nobody believes it is used."""
        world = World(self, configuration=ANONYMOUS)
        self.assertEqual(world.answer(token=None).status, 200)
        self.assertEqual(world.answer(token="anything").status, 200)
        response = self.request(world, "GET /v1/models", "X-Api-Key: sk")
        self.assert_error(response, 400, "invalid_request_error", API_KEY_REFUSED)
        for request in world.simulator.requests.of("turn"):
            self.assertEqual(request.header(b"authorization"), b"Bearer " + world.login.access_token.encode())

    def test_without_users_nobody_is_slowed_down(self) -> None:
        world = World(self, configuration=ANONYMOUS)
        for _ in range(30):
            self.assertEqual(self.request(world, "GET /v1/models", "X-Api-Key: sk").status, 400)


class ThrottleTests(RoutesCase):
    """Spec 11: failed authentications of one address are slowed down."""

    def guess(self, world: World, header: str = "Authorization: Bearer wrong") -> Response:
        """One failed authentication."""
        return self.request(world, "GET /v1/models", header)

    def test_after_ten_in_a_minute(self) -> None:
        world = World(self)
        for _ in range(10):
            self.assertEqual(self.guess(world).status, 401)
        world.network.advance(20)
        response = self.guess(world)
        self.assert_error(response, 429, "rate_limit_error")
        self.assertEqual(response.header("retry-after"), "40")
        self.assertEqual(response.header("x-should-retry"), "false")
        self.assertEqual(response.header("x-ccm-error"), "too_many_failures")

    def test_a_known_token_is_never_slowed(self) -> None:
        world = World(self)
        for _ in range(50):
            self.guess(world)
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(world.get("/ccm/v1/status").status, 200)
        self.assertEqual(self.guess(world).status, 429)

    def test_it_passes(self) -> None:
        world = World(self)
        for _ in range(10):
            self.guess(world)
        world.network.advance(61)
        self.assertEqual(self.guess(world).status, 401)

    def test_retry_after_is_never_too_short(self) -> None:
        """A client that waits for the stated time is not told to wait again."""
        world = World(self)
        for _ in range(10):
            self.guess(world)
        world.clock.advance(58.7)
        wait = int(self.guess(world).header("retry-after") or 0)
        self.assertEqual(wait, 2)

    def test_guessing_by_another_header_counts_too(self) -> None:
        world = World(self)
        for _ in range(10):
            self.assertEqual(self.guess(world, "X-Api-Key: guess").status, 400)
        self.assertEqual(self.guess(world, "X-Api-Key: guess").status, 429)
        self.assertEqual(self.guess(world).status, 429)


#: What a browser sends before a page's request to another origin (WHATWG Fetch, section 3.3.2).
PREFLIGHT = (
    "Origin: http://page.example",
    "Access-Control-Request-Method: POST",
    "Access-Control-Request-Headers: authorization,content-type",
)


class PreflightTests(RoutesCase):
    """F62: browsers' preflights are refused in the dialect's shape, and are not taken for guesses of tokens."""

    def preflight(self, world: World, *headers: str, path: str = "/v1/messages") -> Response:
        """The answer to a preflight with these further fields."""
        return self.request(world, f"OPTIONS {path}", *PREFLIGHT, *headers)

    def assert_refused(self, response: Response) -> None:
        """It says why, and allows the page nothing."""
        self.assert_error(response, 403, "permission_error", CROSS_ORIGIN)
        self.assertEqual(response.header("x-ccm-error"), "cross_origin")
        self.assertIsNone(response.header("access-control-allow-origin"))

    def test_not_counted(self) -> None:
        """A colleague behind the same address still learns what is wrong with a mistyped token."""
        world = World(self)
        for path in ("/v1/messages", "/v1/messages?beta=true", "/ccm/v1/status"):
            for _ in range(12):
                self.assert_refused(self.preflight(world, path=path))
        wrong = self.request(world, "GET /v1/models", "Authorization: Bearer wrong")
        self.assert_error(wrong, 401, "authentication_error", "invalid api key")
        self.assertIn("preflight", world.logged())

    def test_refused_alike_from_an_address_that_guessed(self) -> None:
        world = World(self)
        for _ in range(10):
            self.request(world, "GET /v1/models", "Authorization: Bearer wrong")
        self.assert_refused(self.preflight(world))
        self.assertEqual(self.request(world, "GET /v1/models", "Authorization: Bearer wrong").status, 429)

    def test_wrong_tokens_are_counted(self) -> None:
        """No browser puts a token into a preflight: who sends one is authenticated."""
        world = World(self)
        for header in ("Authorization: Bearer wrong", "X-Api-Key: wrong"):
            for _ in range(5):
                self.assertIn(self.preflight(world, header).status, (400, 401))
        self.assertEqual(self.preflight(world, "Authorization: Bearer wrong").status, 429)

    def test_without_users(self) -> None:
        """Otherwise any page could use the subscription that is served on this machine without a token."""
        world = World(self, configuration=ANONYMOUS)
        self.assert_refused(self.preflight(world))
        self.assertEqual([r.endpoint for r in world.simulator.requests], ["usage", "profile"])

    def test_what_is_no_preflight(self) -> None:
        """Other requests without a token are counted as before, whatever their method."""
        world = World(self)
        for line, headers in (
            ("OPTIONS /v1/messages", PREFLIGHT[:1]),
            ("OPTIONS /v1/messages", PREFLIGHT[1:]),
            ("GET /v1/models", PREFLIGHT),
            ("POST /v1/messages", (*PREFLIGHT, "Content-Length: 0")),
        ):
            self.assertEqual(self.request(world, line, *headers).status, 401, line)
        known = self.preflight(world, f"Authorization: Bearer {TOKEN}")
        self.assertNotEqual(known.header("x-ccm-error"), "cross_origin")


#: A service with a remote that may open a reverse connection (friend), and one it connects to (lender), which is down.
FEDERATED = """
services:
  - type: ccm
    listen_port: 8080
    credentials:
{credentials}
      - {{tag: friend, type: external, token: friend-token-4711}}
      - {{tag: lender, type: external, token: lender-token-4711, url: "http://127.0.0.1:7000", reverse: true}}
    users:
      - {{name: alice, token: {token}, credential: a1}}
      - {{name: carol, token: carol-token-4711, credential: a1, external_credential: lender}}
      - {{name: bob, token: bob-token-4711, credential: lender, allow_external_usage: true}}
    upstream:
      api_url: http://127.0.0.1:9000
      token_url: http://127.0.0.1:9000/v1/oauth/token
      usage_url: http://127.0.0.1:9000/api/oauth/usage
      profile_url: http://127.0.0.1:9000/api/oauth/profile
"""
CAROL = "carol-token-4711"
FRIEND = "Authorization: Bearer friend-token-4711"
UPGRADE = ("Connection: Upgrade", "Upgrade: reverse-proxy")
BAD_HANDSHAKE = "a reverse connection needs the fields Connection: Upgrade and Upgrade: reverse-proxy"


class ReverseTests(RoutesCase):
    """Spec 7.2: the answers to a remote that wants to open a reverse connection."""

    def setUp(self) -> None:
        self.world = World(self, configuration=FEDERATED)

    def ask(self, *headers: str, line: str = "GET /ccm/v1/reverse", client: Client | None = None) -> Response:
        """Return the answer to a handshake with these fields."""
        return self.request(self.world, line, *headers, client=client)

    def test_accepted(self) -> None:
        client, _ = self.world.connect()
        lines = ("GET /ccm/v1/reverse HTTP/1.1", "Host: x", *UPGRADE, FRIEND, "", "")
        self.world.send("\r\n".join(lines).encode(), client)
        self.assertEqual(
            bytes(client.received).partition(b"\r\n\r\n")[0],
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: reverse-proxy",
        )
        self.assertEqual(len(self.world.entry.receiver.sessions), 1)
        self.assertFalse(client.broken)

    def test_order_of_checks(self) -> None:
        """The first failed check is reported, whatever else is wrong."""
        key, basic = "X-Api-Key: sk-ant-x", "Authorization: Basic YTpi"
        for headers, status, kind, message in (
            ((key, basic), 400, "invalid_request_error", BAD_HANDSHAKE),
            ((FRIEND, UPGRADE[0]), 400, "invalid_request_error", BAD_HANDSHAKE),
            ((FRIEND, UPGRADE[1]), 400, "invalid_request_error", BAD_HANDSHAKE),
            ((*UPGRADE, key), 400, "invalid_request_error", API_KEY_REFUSED),
            ((*UPGRADE, key, FRIEND), 400, "invalid_request_error", API_KEY_REFUSED),
            ((*UPGRADE, "Api-Key: friend-token-4711"), 400, "invalid_request_error", API_KEY_REFUSED),
            (UPGRADE, 401, "authentication_error", "missing api key"),
            ((*UPGRADE, "Authorization: "), 401, "authentication_error", "missing api key"),
            ((*UPGRADE, basic), 401, "authentication_error", "invalid api key format"),
        ):
            response = self.ask(*headers)
            self.assert_error(response, status, kind, message)
        self.assertEqual(self.world.entry.receiver.sessions, set())
        self.assertNotIn("friend-token", self.world.logged())

    def test_unknown_tokens(self) -> None:
        for token in ("wrong", "friend-token-471", "friend-token-47111", "FRIEND-TOKEN-4711"):
            response = self.ask(*UPGRADE, f"Authorization: Bearer {token}")
            self.assert_error(response, 401, "authentication_error", "invalid api key")
            self.assertEqual(response.header("x-ccm-error"), "unauthenticated")

    def test_tokens_of_others(self) -> None:
        """A user is no remote, and a remote that this instance connects to may not connect to it."""
        for token in (TOKEN, "lender-token-4711"):
            response = self.ask(*UPGRADE, f"Authorization: Bearer {token}")
            self.assert_error(response, 401, "authentication_error", "invalid api key")

    def test_a_remotes_token_is_no_users(self) -> None:
        for token in ("friend-token-4711", "lender-token-4711"):
            for line in ("GET /v1/models", "GET /ccm/v1/status", "GET /ccm/v1/sessions"):
                response = self.request(self.world, line, f"Authorization: Bearer {token}")
                self.assert_error(response, 401, "authentication_error", "invalid api key")
        self.assertEqual(self.world.simulator.requests.of("models"), [])

    def test_methods_and_versions(self) -> None:
        for method in ("POST", "HEAD", "PUT"):
            client = self.world.send(
                "\r\n".join(
                    (
                        f"{method} /ccm/v1/reverse HTTP/1.1",
                        "Host: x",
                        *UPGRADE,
                        FRIEND,
                        "Content-Length: 0",
                        "",
                        "",
                    )
                ).encode()
            )
            self.assertTrue(client.received.startswith(b"HTTP/1.1 400 "), method)
        lines = ("GET /ccm/v1/reverse HTTP/1.0", "Host: x", *UPGRADE, FRIEND, "", "")
        client = self.world.send("\r\n".join(lines).encode())
        self.assertEqual(client.responses()[0].error["message"], "a reverse connection needs HTTP/1.1")
        self.assertEqual(self.world.entry.receiver.sessions, set())

    def test_a_body(self) -> None:
        """There is no use for the body, and the service can still be stopped (see World.close)."""
        for length, bodies in (
            ("Content-Length: 5", ("", "hel", "hello", "hello\0\0")),
            ("Transfer-Encoding: chunked", ("", "5\r\n", "0\r\n\r\n")),
        ):
            for body in bodies:
                lines = ("GET /ccm/v1/reverse HTTP/1.1", "Host: x", *UPGRADE, FRIEND, length, "", body)
                response = self.world.send("\r\n".join(lines).encode()).responses()[0]
                self.assert_error(response, 400, "invalid_request_error", "a handshake has no body")
        self.assertEqual(self.world.entry.receiver.sessions, set())

    def test_paths(self) -> None:
        for path in ("/ocm/v1/reverse", "/ccm/v1/reverse/", "/v1/reverse2"):
            self.assertNotEqual(self.ask(*UPGRADE, FRIEND, line=f"GET {path}").status, 101)
        self.assertEqual(self.world.entry.receiver.sessions, set())

    def test_guesses_are_slowed_down(self) -> None:
        """Failed attempts count together with those for users' tokens; the right token is accepted all the same."""
        for number in range(10):
            line = "GET /ccm/v1/reverse" if number % 2 else "GET /v1/models"
            self.assertEqual(self.ask(*UPGRADE, "Authorization: Bearer x", line=line).status, 401)
        response = self.ask(*UPGRADE, "Authorization: Bearer x")
        self.assert_error(response, 429, "rate_limit_error")
        self.assertEqual(response.header("retry-after"), "60")
        self.assertEqual(self.request(self.world, "GET /v1/models", "Authorization: Bearer x").status, 429)
        client, _ = self.world.connect()
        lines = ("GET /ccm/v1/reverse HTTP/1.1", "Host: x", *UPGRADE, FRIEND, "", "")
        self.world.send("\r\n".join(lines).encode(), client)
        self.assertTrue(client.received.startswith(b"HTTP/1.1 101 "))

    def test_an_ordinary_request_is_no_guess(self) -> None:
        for _ in range(20):
            self.assertEqual(self.ask().status, 400)

    def test_whoever_comes_may_be_the_remote_that_could_not_be_used(self) -> None:
        """Spec 5.5: the remote is polled at once to see whether it has recovered."""
        listener = self.world.network.listen("127.0.0.1", 7000, self.world.simulator.factory)
        listener.refusing = True
        for _ in range(80):
            self.world.network.advance(1)
        for user, wait, polls in ((TOKEN, 0, 0), (CAROL, 0, 1), (CAROL, 3, 0), (TOKEN, 0, 0), (CAROL, 3, 1)):
            for _ in range(wait):
                self.world.network.advance(1)
            # The first attempt of a poll comes at once; the others depend on the clock.
            before = listener.attempts
            self.world.get("/ccm/v1/status", token=user)
            self.assertEqual(listener.attempts - before, polls, (user == CAROL, wait))


class HopsTests(RoutesCase):
    """A request that circulates among instances is ended."""

    def test_as_many_as_may_be(self) -> None:
        world = World(self)
        for value in ("0", "1", "4", " 4 "):
            response = self.request(
                world, "GET /v1/models", f"Authorization: Bearer {TOKEN}", f"X-CCM-Hops: {value}"
            )
            self.assertEqual(response.status, 200, value)
        for request in world.simulator.requests:
            self.assertIsNone(request.header(b"x-ccm-hops"))

    def test_too_many(self) -> None:
        world = World(self)
        before = len(world.simulator.requests)
        for value in ("5", "6", "999", "99999999999999999999", "-1", "four", "", "4, 4", "0x1", "1.5", "²"):
            response = self.request(
                world, "POST /v1/messages", f"Authorization: Bearer {TOKEN}", f"x-ccm-hops: {value}"
            )
            self.assert_error(response, 508, "api_error")
            self.assertEqual(response.header("x-ccm-error"), "too_many_hops")
            self.assertEqual(response.header("x-should-retry"), "false", value)
        self.assertEqual(len(world.simulator.requests), before)
        self.assertIn("has passed too many instances", world.logged())

    def test_strangers_are_told_nothing_of_it(self) -> None:
        world = World(self)
        response = self.request(world, "GET /v1/models", "Authorization: Bearer x", "X-CCM-Hops: 9")
        self.assertEqual(response.status, 401)

    def test_the_status_goes_no_further(self) -> None:
        world = World(self)
        response = self.request(
            world, "GET /ccm/v1/status", f"Authorization: Bearer {TOKEN}", "X-CCM-Hops: 9"
        )
        self.assertEqual(response.status, 200)
