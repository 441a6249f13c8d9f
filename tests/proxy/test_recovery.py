"""Expired or refused tokens, and missing or broken logins, as seen by a client (spec 3, 4.4)."""

from __future__ import annotations

import json
import os

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.key import FIRST_REFUSAL
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.simulator.claude.simulated_account import ApiKeyAccount
from ccmproxy.state.inputs import PollFailed
from tests.conversation import Response, World, message_request
from tests.proxy.raw_upstream import RawUpstream, http_response
from tests.proxy.scripted_upstream import CodexPoolWorld

API_KEY = """
services:
  - type: ccm
    listen_port: 8080
    users:
      - {{name: alice, token: {token}, credential: key}}
    credentials:
      - {{tag: key, api_key: KEY}}
    upstream:
      api_url: http://127.0.0.1:9000
{more}
"""


class RecoveryCase(SynchronousTestCase):
    """Checks that several tests share."""

    def assert_unavailable(self, response: Response, *words: str) -> None:
        """Check for a 400 in the dialect's format that names the reason."""
        self.assertEqual((response.status, response.error["type"]), (400, "invalid_request_error"))
        self.assertEqual(response.header("x-ccm-error"), "credential_unavailable")
        self.assertRegex(response.error["message"], "^credential [a-z]+ is unavailable: ")
        for word in words:
            self.assertIn(word, response.error["message"])

    def assert_delayed(self, response: Response, *words: str) -> None:
        """Check for a 503 in the dialect's format that names the reason, and that clients wait for and repeat: the
        cause passes by itself (spec 12.4)."""
        self.assertEqual((response.status, response.error["type"]), (503, "api_error"))
        self.assertEqual(response.header("x-ccm-error"), "credential_delayed")
        self.assertIn(int(response.header("retry-after") or 0), range(1, 61))
        self.assertIsNone(response.header("x-should-retry"))
        for word in words:
            self.assertIn(word, response.error["message"])

    def turns(self, world: World) -> int:
        """How many message requests the upstream saw."""
        return len(world.simulator.requests.of("turn"))


class ExpiredTests(RecoveryCase):
    """The access token has run out."""

    def test_fifty_requests_meet_an_expired_token(self) -> None:
        """F1: there is exactly one refresh, and all requests are served."""
        world = World(self)
        world.expire_login()
        world.simulator.faults.next("slow;seconds=2", endpoint="token")
        clients = [world.ask(f"[[say:{number}]]") for number in range(50)]
        self.assertEqual([bytes(client.received) for client in clients], [b""] * 50)
        self.assertEqual(self.turns(world), 0)
        world.network.advance(2)
        texts = [client.responses()[0].json()["content"][0]["text"] for client in clients]
        self.assertEqual(texts, [str(number) for number in range(50)])
        self.assertEqual(world.login.counters.refreshes, 1)
        self.assertEqual(world.login.counters.refused_refreshes, 0)
        self.assertEqual(len(world.simulator.requests.of("token")), 1)
        self.assertEqual(world.results(), ["served"] * 50)

    def test_fifty_requests_are_refused_with_the_same_token(self) -> None:
        """F1: the upstream answers 50 times with 401, and there is one refresh."""
        world = World(self)
        for number in range(50):
            if number == 0:
                world.login.expire_access_token()
            world.ask(f"[[say:{number}]]")
        self.assertEqual(world.results(), ["served"] * 50)
        self.assertEqual(world.login.counters.refreshes, 1)

    def test_refused_all_at_once(self) -> None:
        """F1, F4: the 401s arrive late, one by one; each request first compares its token to the current one."""
        world = World(self)
        world.login.expire_access_token()
        clients = [world.connect()[0] for _ in range(20)]
        for number, client in enumerate(clients):
            assert client.transport is not None
            client.transport.write(message_request(f"[[say:{number}]]"))
        world.network.flush()
        self.assertEqual([client.responses()[0].status for client in clients], [200] * 20)
        self.assertEqual(world.login.counters.refreshes, 1)
        self.assertEqual(self.turns(world), 40)

    def test_the_refresh_is_saved_before_it_is_used(self) -> None:
        """F3: when the first request with the new token arrives at the upstream, the file holds that token."""
        world = World(self)
        world.expire_login()
        saved: list[str] = []
        real = world.simulator.factory
        body = b'{"type":"message","usage":{"input_tokens":1}}'

        def look() -> bytes:
            with open(world.path, encoding="utf-8") as file:
                saved.append(json.load(file)["claudeAiOauth"]["accessToken"])
            return http_response(200, body=body)

        world.simulator.faults.next("slow;seconds=1", endpoint="token")
        client = world.ask()
        upstream = RawUpstream(world, [look])
        world.network.advance(1)
        world.upstream.factory = real
        self.assertEqual(client.responses()[0].status, 200)
        self.assertEqual(saved, [world.login.access_token])
        self.assertIn(world.login.access_token.encode(), upstream.received[0])

    def test_the_official_client_refreshed_meanwhile(self) -> None:
        """F2: the file is read again before a refresh; its newer token is used, and no refresh token is redeemed."""
        world = World(self)
        world.expire_login()
        world.login.redeem(world.login.refresh_token)
        world.write_login()
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(world.simulator.requests.of("token"), [])
        self.assertEqual(world.login.counters.refused_refreshes, 0)

    def test_the_official_client_refreshed_during_ours(self) -> None:
        """F2: our refresh is refused because the official client's came first; the file's newer token is used."""
        world = World(self)
        world.expire_login()
        upstream = world.simulator.factory
        refused = http_response(400, body=b'{"error": "invalid_grant"}')

        def meanwhile() -> bytes:
            world.login.redeem(world.login.refresh_token)
            world.write_login()
            world.upstream.factory = upstream
            return refused

        RawUpstream(world, [meanwhile], closing=True)
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(world.login.counters.refreshes, 1)

    def test_a_token_that_still_lasts_is_used_while_the_endpoint_fails(self) -> None:
        world = World(self)
        world.simulator.faults.always("unavailable", endpoint="token")
        world.network.advance(8 * 3600 - 200)  # due, not expired
        self.assertEqual(world.answer().status, 200)

    def test_a_refresh_that_fails_for_the_moment(self) -> None:
        world = World(self)
        world.expire_login()
        world.simulator.faults.next("unavailable", endpoint="token")
        self.assert_delayed(world.answer(), "token refresh failed", "503")
        self.assertEqual(self.turns(world), 0)
        world.network.advance(6)
        self.assertEqual(world.answer().status, 200)

    def test_a_refresh_that_fails_for_good(self) -> None:
        """F9: clients are told at once, and the endpoint is not asked again with a token that it refused for good."""
        world = World(self)
        world.expire_login()
        world.simulator.faults.always("invalid_grant", endpoint="token")
        for _ in range(3):
            self.assert_unavailable(world.answer(), "log in again")
            world.network.advance(30)
        self.assertEqual(len(world.simulator.requests.of("token")), 1)
        world.simulator.faults.clear()
        world.login.log_in()
        world.write_login()
        world.see_files()
        self.assertEqual(world.answer().status, 200)

    def test_the_token_endpoint_does_not_answer(self) -> None:
        world = World(self)
        world.expire_login()
        world.simulator.faults.always("hang", endpoint="token")
        client = world.ask()
        world.until(lambda: bool(client.responses()), 60)
        self.assert_delayed(client.responses()[0], "token")

    def test_the_client_leaves_while_a_token_is_fetched(self) -> None:
        """The refresh goes on, as its result belongs to the account. The request is never sent."""
        world = World(self)
        world.expire_login()
        world.simulator.faults.next("slow;seconds=2", endpoint="token")
        client = world.ask()
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        world.network.advance(2)
        self.assertEqual(world.login.counters.refreshes, 1)
        self.assertEqual(self.turns(world), 0)
        self.assertEqual(world.results(), ["client_gone"])
        self.assertEqual(world.account.outcomes[LeaseOutcome.CANCELLED], 1)
        self.assertEqual(world.answer().status, 200)

    def test_the_service_stops_while_a_token_is_fetched(self) -> None:
        world = World(self)
        world.expire_login()
        world.simulator.faults.always("hang", endpoint="token")
        client = world.ask()
        stopped = world.service.stopService()
        for _ in range(60):
            world.network.advance(1)
        self.successResultOf(stopped)
        self.assertTrue(client.broken)
        self.assertEqual(world.account.leases, set())
        self.assertEqual(len(world.results()), 1)


class RefusedTests(RecoveryCase):
    """The upstream refuses the token (spec 3.4)."""

    def test_refreshed_and_repeated_once(self) -> None:
        for fault in ("unauthorized", "revoked"):
            world = World(self)
            world.simulator.faults.next(fault)
            response = world.answer("[[say:after all]]")
            self.assertEqual(response.status, 200, fault)
            self.assertEqual(self.turns(world), 2)
            self.assertEqual(world.login.counters.refreshes, 1)
            first, second = world.simulator.requests.of("turn")
            self.assertEqual(first.body, second.body)
            self.assertNotEqual(first.header(b"authorization"), second.header(b"authorization"))

    def test_the_file_holds_another_token(self) -> None:
        """F4: the file is read again first, and its token is used without a refresh."""
        world = World(self)
        world.login.redeem(world.login.refresh_token)  # by the official client
        world.write_login()
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(world.simulator.requests.of("token"), [])

    def test_a_refusal_that_comes_late(self) -> None:
        """F4: the refused token is not the current one any more, so nothing is refreshed or overwritten."""
        world = World(self)
        old = world.login.access_token
        body = b'{"type":"message","usage":{"input_tokens":1}}'

        def late() -> bytes:
            world.upstream.connections[-1].server.held = True
            return http_response(401)

        upstream = RawUpstream(world, [late, http_response(200, body=body)])
        client = world.ask()
        self.assertEqual(client.received, b"")
        world.login.redeem(world.login.refresh_token)
        world.write_login()
        world.upstream.factory = world.simulator.factory
        world.see_files()
        for pump in world.upstream.connections:
            pump.server.held = False
        world.network.flush()
        self.assertEqual(client.responses()[0].status, 200)
        self.assertIn(old.encode(), upstream.received[0])
        self.assertEqual(world.simulator.requests.of("token"), [])
        with open(world.path, encoding="utf-8") as file:
            self.assertIn(world.login.access_token, file.read())

    def test_still_refused(self) -> None:
        """The new token serves polls, so the refusal is about the request (spec 12.3). The client never gets a 401,
        because its own token is valid."""
        world = World(self)
        world.simulator.faults.always("unauthorized")
        response = world.answer()
        self.assertEqual((response.status, response.error["type"]), (403, "authentication_error"))
        self.assertEqual((self.turns(world), world.login.counters.refreshes), (2, 1))
        self.assertTrue(world.account.is_usable())

    def test_revoked(self) -> None:
        """Where known words say that the login was revoked, no poll proves the contrary (spec 12.3): the login is bad,
        and later requests are refused at once."""
        world = World(self)
        world.simulator.faults.always("revoked")
        world.simulator.faults.always("unauthorized", endpoint="usage")
        self.assert_unavailable(world.answer(), "")
        self.assertEqual(self.turns(world), 2)
        # One refresh for the request, and one for the poll that would have proved the login.
        self.assertLessEqual(world.login.counters.refreshes, 2)
        self.assert_unavailable(world.answer(), "")
        self.assertEqual(self.turns(world), 2)

    def test_refused_and_no_refresh_to_be_had(self) -> None:
        world = World(self)
        world.simulator.faults.always("unauthorized")
        world.simulator.faults.always("unavailable", endpoint="token")
        self.assert_delayed(world.answer(), "credential default is unavailable: token refresh failed")

    def test_every_request_refused_is_no_storm_of_refreshes(self) -> None:
        world = World(self)
        world.simulator.faults.always("unauthorized")
        for _ in range(20):
            self.assertEqual(world.answer().status, 403)
        self.assertEqual(world.login.counters.refreshes, 1)

    def test_the_account_was_logged_out(self) -> None:
        """F9: the client is told clearly, and later requests are refused at once."""
        world = World(self)
        world.login.log_out()
        self.assert_unavailable(world.answer(), "log in again")
        asked = self.turns(world)
        self.assert_unavailable(world.answer(), "log in again")
        self.assertEqual(self.turns(world), asked)

    def test_the_client_leaves_while_another_token_is_fetched(self) -> None:
        world = World(self)
        world.simulator.faults.next("unauthorized")
        world.simulator.faults.next("slow;seconds=2", endpoint="token")
        client = world.ask()
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        world.network.advance(2)
        self.assertEqual((self.turns(world), world.login.counters.refreshes), (1, 1))
        self.assertEqual(world.results(), ["client_gone"])

    def test_another_403_is_not_touched(self) -> None:
        world = World(self)
        response = world.answer("[[simulate:forbidden]]")
        self.assertEqual(response.status, 403)
        self.assertIn("permission to use this model", response.error["message"])
        self.assertIsNone(response.header("x-ccm-error"))
        self.assertEqual(self.turns(world), 1)
        self.assertEqual(world.simulator.requests.of("token"), [])

    def test_a_403_whose_body_never_ends(self) -> None:
        """Only the first bytes of the body are awaited, and only for a limited time."""
        world = World(self)
        RawUpstream(world, [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nno"])
        client = world.ask()
        self.assertEqual(client.received, b"")
        world.network.advance(10)
        self.assertEqual(client.responses()[0].status, 403)
        self.assertEqual(client.responses()[0].body, b"no")
        assert client.transport is not None
        client.transport.loseConnection()

    def test_a_403_whose_body_is_huge(self) -> None:
        world = World(self)
        body = b"x" * 300_000
        RawUpstream(world, [http_response(403, body=body, content_type="text/plain")])
        self.assertEqual(world.answer().body, body)

    def test_the_client_leaves_while_a_403_is_read(self) -> None:
        world = World(self)
        RawUpstream(world, [b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000\r\n\r\nno"])
        client = world.ask()
        assert client.transport is not None
        client.transport.loseConnection()
        world.network.flush()
        self.assertEqual(world.results(), ["client_gone"])
        self.assertTrue(world.upstream.connections[-1].closed)


LATER = "2033-01-01T00:00:00Z"


class KeyTests(RecoveryCase):
    """A key of the commercial API (spec 3.7)."""

    def world(self) -> tuple[World, ApiKeyAccount]:
        world = World(self, configuration=API_KEY.replace("KEY", "sk-ant-test-key"), start=False)
        account = world.simulator.add_api_key()
        account.key = "sk-ant-test-key"
        world.start()
        return world, account

    def test_a_turn_with_a_key(self) -> None:
        world, _ = self.world()
        self.assertEqual(world.answer(headers=(("anthropic-beta", "oauth-2025-04-20,x"),)).status, 200)
        received = world.simulator.requests.of("turn")[0]
        self.assertEqual(received.header(b"x-api-key"), b"sk-ant-test-key")
        self.assertIsNone(received.header(b"authorization"))
        self.assertEqual(received.items(b"anthropic-beta"), [b"x"])
        self.assertNotIn("sk-ant-test-key", world.logged())
        self.assertEqual(world.simulator.requests.of("usage"), [])

    def test_a_key_in_the_place_of_a_login(self) -> None:
        """It has nothing to do with what the login has left, nor with its polls, which nobody makes any more."""
        world = CodexPoolWorld(self)
        account = world.accounts[0]
        account._apply(PollFailed())
        account.rate_limited(world.clock.seconds() + 86400, True)
        with open(world.paths[0], "w", encoding="utf-8") as file:
            json.dump({"OPENAI_API_KEY": "sk-key", "auth_mode": "apikey"}, file)
        world.see_files()
        self.assertTrue(account.is_api_key)
        self.assertTrue(account.is_usable())

    def test_a_key_that_is_refused(self) -> None:
        """Clients would take a 502 for temporary. For a while the upstream is not asked again (spec 12.3)."""
        world, _ = self.world()
        world.simulator.faults.always("unauthorized")
        for _ in range(3):
            response = world.answer()
            self.assertEqual(
                (response.status, response.header("x-ccm-error")), (400, "credential_unavailable")
            )
            self.assertIn("refuses this API key", response.error["message"])
        self.assertEqual([each.endpoint for each in world.simulator.requests].count("turn"), 1)
        world.simulator.faults.clear()
        world.network.advance(FIRST_REFUSAL)
        self.assertEqual(world.answer().status, 200)

    def test_a_key_and_an_odd_path(self) -> None:
        """One odd request says nothing against the key."""
        world, _ = self.world()
        upstream = RawUpstream(world, [http_response(401, body=b"no such thing")])
        self.assertEqual(world.get("/v1/strange").status, 403)
        self.assertEqual(len(upstream.received), 1)
        self.assertTrue(world.account.is_usable())

    def test_counting_tokens_at_a_key(self) -> None:
        """Its limits are other ones than those of turns (spec 12.2)."""
        fields = (
            ("anthropic-ratelimit-requests-remaining", "0"),
            ("anthropic-ratelimit-requests-reset", LATER),
        )
        for path, is_usable in (("/v1/messages/count_tokens", True), ("/v1/messages", False)):
            world, _ = self.world()
            RawUpstream(
                world, [http_response(429, *fields, body=b'{"type":"error","error":{"message":"no"}}')]
            )
            self.assertEqual(world.answer(path=path).status, 429)
            self.assertIs(world.account.is_usable(), is_usable, path)
            world.close()

    def test_a_key_that_is_used_up(self) -> None:
        world, account = self.world()
        account.exhaust()
        response = world.answer()
        self.assertEqual((response.status, response.error["type"]), (429, "rate_limit_error"))
        world.network.advance(61)
        self.assertEqual(world.answer().status, 200)


class MissingTests(RecoveryCase):
    """No login, or one that cannot be used (spec 3.1)."""

    def test_the_file_appears(self) -> None:
        world = World(self, with_file=False)
        self.assert_unavailable(world.answer(), "does not exist")
        world.write_login()
        world.see_files()
        self.assertEqual(world.answer().status, 200)

    def test_the_file_is_looked_for_on_demand(self) -> None:
        """An unavailable credential is read again on demand, at most every 2 s, even before the watcher notices it."""
        world = World(self, with_file=False)
        world.write_login()
        world.network.advance(2)
        self.assertEqual(world.answer().status, 200)

    def test_broken_files(self) -> None:
        world = World(self, with_file=False)
        for content, words in (
            (b"", ""),
            (b"{", ""),
            (b"[]", ""),
            (b"\xff\xff", ""),
            (b"{}", "claudeAiOauth field not found"),
            (b'{"claudeAiOauth": 5}', ""),
            (b'{"claudeAiOauth": {"accessToken": 5}}', ""),
            (b'{"claudeAiOauth": {"accessToken": "at-secret", ', ""),
            (b"[" * 100_000, ""),
        ):
            with open(world.path, "wb") as file:
                file.write(content)
            world.see_files()
            response = world.answer()
            self.assert_unavailable(response, words)
            self.assertNotIn(b"at-secret", response.body)
        world.write_login()
        world.see_files()
        self.assertEqual(world.answer().status, 200)

    def test_tokens_that_cannot_be_sent(self) -> None:
        """Invalid tokens in a file get neither into a header nor into a log."""
        for token in ("at-secret\r\nX-Injected: 1", "at-secret€", "at-secret\x00", "at secret", ""):
            world = World(self, with_file=False)
            with open(world.path, "w", encoding="utf-8") as file:
                json.dump({"claudeAiOauth": {"accessToken": token, "expiresAt": 0, "scopes": []}}, file)
            world.see_files()
            response = world.answer()
            self.assert_unavailable(response, "accessToken")
            self.assertNotIn("at-secret", response.body.decode() + world.logged(), repr(token))
            for request in world.simulator.requests:
                self.assertIsNone(request.header(b"x-injected"))
            self.assertEqual(self.flushLoggedErrors(), [], repr(token))

    def test_a_removed_file(self) -> None:
        world = World(self)
        self.assertEqual(world.answer().status, 200)
        os.remove(world.path)
        world.see_files()
        self.assert_unavailable(world.answer(), "does not exist")

    def test_a_file_that_cannot_be_read(self) -> None:
        world = World(self, with_file=False)
        os.mkdir(world.path)
        world.see_files()
        self.assert_unavailable(world.answer())
