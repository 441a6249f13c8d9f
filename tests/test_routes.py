"""Who is let in, and where a request goes (spec 2, 4.1, 11)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.conversation import ANONYMOUS, TOKEN, Client, Response, World, message_request

API_KEY_REFUSED = "API key authentication is not supported; use Authorization: Bearer with a CCM user token"


class RoutesCase(SynchronousTestCase):
    """What several tests ask of an answer."""

    def request(self, world: World, line: str, *headers: str, client: Client | None = None) -> Response:
        """The answer to a request with this request line (without a version) and no body."""
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
    """Spec 2: which paths there are."""

    def test_probes(self) -> None:
        """What clients ask for before they have a credential: answered at once, not counted as a failure."""
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
            "GET /api/oauth/usage",
            "OPTIONS *",
            "GET /%76%31/messages",
        ):
            response = self.request(world, line, f"Authorization: Bearer {TOKEN}")
            self.assert_error(response, 404, "not_found_error")
            self.assertEqual(response.header("x-ccm-error"), "not_found")
        self.assertEqual([r.endpoint for r in world.simulator.requests], ["usage"])

    def test_dot_segments_do_not_leave_the_folder(self) -> None:
        """The account's token must not reach endpoints that are not served here."""
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
        self.assertEqual([r.endpoint for r in world.simulator.requests], ["usage"])

    def test_dots_that_are_no_segments(self) -> None:
        world = World(self)
        for path in ("/v1/models/claude..opus", "/v1/models?x=/../y", "/v1/..."):
            self.request(world, f"GET {path}", f"Authorization: Bearer {TOKEN}")
            self.assertEqual(world.simulator.requests[-1].target, path.encode())

    def test_absolute_targets(self) -> None:
        """RFC 9112 section 3.2.2: servers accept them; what is passed on is the origin form."""
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
        """What is under way is answered, nothing more on the same connection, and nobody new is let in."""
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
        """As SDKs send that were given an empty key beside a token."""
        world = World(self)
        headers = ("X-Api-Key: ", f"Authorization: Bearer {TOKEN}")
        self.assertEqual(self.request(world, "GET /v1/models", *headers).status, 200)
        self.assertEqual(self.request(world, "GET /v1/models", "X-Api-Key:").status, 401)

    def test_bearer_in_any_case(self) -> None:
        world = World(self)
        self.assertEqual(self.request(world, "GET /v1/models", f"authorization: bEARER  {TOKEN}").status, 200)

    def test_without_users(self) -> None:
        """Everybody is let in, whatever he carries; but a key is not mistaken for something that works."""
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
        """Whoever waits as told is not told to wait again."""
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
