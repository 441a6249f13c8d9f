"""Tests of :mod:`ccmproxy.credentials.login.standing`: proofs, endpoints that refuse, and probes (spec 12.3)."""

from __future__ import annotations

from dataclasses import replace

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.login.standing import MOST_ENDPOINTS, TokenStanding, digest, without_ids
from ccmproxy.dialects.oauth import ApiKey, OAuthToken, RemoteToken

NOW = 1_800_000_000.0
ONE, OTHER = OAuthToken("SECRET1"), OAuthToken("SECRET2")
FILES = b"GET", b"/v1/files"


class ProofTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.standing = TokenStanding()

    def test_this_very_token(self) -> None:
        self.assertFalse(self.standing.is_proven(ONE))
        self.standing.prove(ONE)
        self.assertTrue(self.standing.is_proven(replace(ONE, plan="max")))
        self.assertFalse(self.standing.is_proven(OTHER))
        self.standing.prove(OTHER)
        self.assertFalse(self.standing.is_proven(ONE), "it was replaced")

    def test_refused_since(self) -> None:
        self.standing.prove(ONE)
        self.standing.disprove(OTHER)
        self.assertTrue(self.standing.is_proven(ONE))
        self.standing.disprove(replace(ONE, plan="max"))
        self.assertFalse(self.standing.is_proven(ONE))

    def test_secrets_are_not_kept(self) -> None:
        self.standing.prove(ONE)
        self.standing.remember_about_request(ONE, *FILES)
        self.assertNotIn("SECRET", repr(vars(self.standing)))
        self.assertEqual(len({digest(ONE), digest(ApiKey("k")), digest(RemoteToken("t"))}), 3)


class EndpointTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.standing = TokenStanding()

    def test_remembered_until_the_token_is_replaced(self) -> None:
        self.assertFalse(self.standing.is_about_request(ONE, *FILES))
        self.standing.remember_about_request(ONE, *FILES)
        self.assertTrue(self.standing.is_about_request(ONE, *FILES))
        self.assertFalse(self.standing.is_about_request(ONE, b"POST", b"/v1/files"))
        self.assertFalse(self.standing.is_about_request(OTHER, *FILES))
        self.standing.replaced(ONE)
        self.assertTrue(self.standing.is_about_request(ONE, *FILES))
        self.standing.replaced(OTHER)
        self.assertFalse(self.standing.is_about_request(ONE, *FILES))

    def test_ids_are_no_part_of_an_endpoint(self) -> None:
        self.standing.remember_about_request(ONE, b"GET", b"/v1/files/file_011CNha8iCJc")
        self.assertTrue(self.standing.is_about_request(ONE, b"GET", b"/v1/files/file_022?x=1"))
        self.assertFalse(self.standing.is_about_request(ONE, b"GET", b"/v1/files/list"))
        for path, kept in (
            (b"/v1/messages/batches", b"/v1/messages/batches"),
            (b"/v1/messages/batches/msgbatch_01/results?limit=5", b"/v1/messages/batches/*/results"),
            (b"/v12a", b"/*"),
            (b"", b""),
        ):
            self.assertEqual(without_ids(path), kept)

    def test_bounded(self) -> None:
        for n in range(MOST_ENDPOINTS):
            self.standing.remember_about_request(ONE, b"GET", b"/" + b"x" * (n + 1))
        self.standing.remember_about_request(ONE, b"GET", b"/x")  # Used last of all now.
        self.standing.remember_about_request(ONE, *FILES)
        self.assertTrue(self.standing.is_about_request(ONE, b"GET", b"/x"))
        self.assertFalse(self.standing.is_about_request(ONE, b"GET", b"/xx"), "the oldest gives way")
        self.standing.remember_about_request(ONE, b"GET", b"/" + b"y" * 10_000)
        self.assertFalse(self.standing.is_about_request(ONE, b"GET", b"/" + b"y" * 10_000))


class BadLoginTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.standing = TokenStanding()

    def next_probe(self, now: float = NOW) -> float:
        """Seconds until the next probe."""
        assert self.standing.bad is not None
        return self.standing.bad.next_at - now

    def test_probed_at_once_and_at_growing_intervals(self) -> None:
        self.standing.refuse("no", NOW)
        self.assertEqual(self.next_probe(), 0)
        for delay in (30, 60, 120, 240, 480, 600, 600):
            self.assertFalse(self.standing.probed(False, NOW))
            self.assertEqual(self.next_probe(), delay)
        self.assertTrue(self.standing.probed(True, NOW))
        self.assertIsNone(self.standing.bad)

    def test_a_probe_that_shows_nothing(self) -> None:
        """A usage endpoint that is broken does not keep an account out for ever: a request finds out, and the next bad
        time goes on where this one ended."""
        self.standing.refuse("no", NOW)
        self.assertEqual([self.standing.probed(None, NOW) for _ in range(3)], [False, False, True])
        self.standing.refuse("no", NOW)
        self.assertEqual(self.next_probe(), 120)
        self.assertTrue(self.standing.probed(None, NOW))
        self.standing.prove(ONE)
        self.standing.refuse("no", NOW)
        self.assertEqual(self.next_probe(), 0, "a good token begins anew")

    def test_refused_again_changes_nothing(self) -> None:
        self.standing.refuse("no", NOW)
        self.standing.probed(False, NOW)
        before = self.standing.bad
        self.standing.refuse("other", NOW + 10)
        self.assertEqual(self.standing.bad, before)

    def test_the_clock_is_set(self) -> None:
        """The interval until the next probe goes on (spec 11)."""
        self.standing.clock_set(5)
        self.assertIsNone(self.standing.bad)
        self.standing.refuse("no", NOW)
        self.standing.probed(False, NOW)
        self.standing.clock_set(-10800.0)
        assert self.standing.bad is not None
        self.assertEqual(self.standing.bad.next_at, NOW - 10800 + 30)

    def test_another_login(self) -> None:
        self.assertFalse(self.standing.changed())
        self.standing.refuse("no", NOW)
        self.assertTrue(self.standing.changed())
        self.assertIsNone(self.standing.bad)
        self.assertFalse(self.standing.probed(True, NOW))
