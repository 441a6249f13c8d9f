"""Refusals that only Codex makes, each through a whole service: what follows, and who is told (spec 12)."""

from __future__ import annotations

import json

from twisted.trial.unittest import SynchronousTestCase

from tests.conversation import Response
from tests.proxy.neighbours import ACCOUNTS, Scene
from tests.proxy.raw_upstream import http_response
from tests.proxy.scripted_upstream import CodexPoolWorld, refusal
from tests.proxy.test_codex import only, request

HOUR = 3600.0


class UsedUpTests(SynchronousTestCase):
    """429s that say what the account has left."""

    def setUp(self) -> None:
        self.scene = Scene(self, "codex")
        self.until = int(self.scene.clock.seconds() + 2 * HOUR)

    def assert_used_up(self, *headers: tuple[str, str], **error: object) -> None:
        """Check that another account serves what this refusal is said to, and that carol is told its reset."""
        scene = self.scene
        scene.refuse(refusal(429, "no more", *headers, kind="usage_limit_reached", **error), *ACCOUNTS[:1])
        scene.assert_served(["a1", "a2"], "alice", "warm", "odd")
        scene.assert_served(["a2"], "bob", "warm-too")
        response = scene.told("carol", "warm")
        self.assertEqual((response.status, response.error["type"]), (429, "usage_limit_reached"))
        self.assertEqual((response.error["resets_at"], scene.asked()), (self.until, []))
        self.assertEqual(scene.status("carol")["reset_at"], self.until)
        self.assertEqual(scene.running.received, b"")

    def test_a_reset_in_the_body(self) -> None:
        self.assert_used_up(resets_at=self.until)

    def test_seconds_in_the_body(self) -> None:
        self.assert_used_up(resets_in_seconds=int(2 * HOUR))

    def test_a_reset_in_retry_after(self) -> None:
        self.assert_used_up(("Retry-After", str(int(2 * HOUR))))

    def test_a_full_window_in_the_headers(self) -> None:
        self.assert_used_up(
            ("x-codex-primary-used-percent", "100"),
            ("x-codex-primary-window-minutes", "300"),
            ("x-codex-primary-reset-at", str(self.until)),
            ("x-codex-secondary-used-percent", "20"),
            ("x-codex-secondary-window-minutes", "10080"),
            ("x-codex-secondary-reset-at", str(self.until + 90000)),
        )

    def test_a_limit_with_a_name_of_its_own(self) -> None:
        """It closes the model that was asked for, and no other."""
        scene = self.scene
        said = refusal(
            429,
            "no more",
            ("x-codex-active-limit", "codex_fox"),
            ("x-codex-fox-limit-name", "Fox"),
            kind="usage_limit_reached",
            resets_at=self.until,
        )
        scene.refuse(said, "a1")
        scene.assert_served(["a1", "a2"], "alice", "warm", "odd")
        scene.assert_served(["a2"], "bob", "warm-too")
        for user in ("alice", "bob", "carol"):
            scene.assert_served(["a1"], user, "of-another-model", model=scene.other_model)
            self.assertEqual(scene.status(user), scene.before[user])
        response = scene.told("carol", "warm")
        self.assertEqual((response.status, response.error["resets_at"]), (429, self.until))
        self.assertEqual(scene.asked(), [])
        scene.finish()


class FinalTests(SynchronousTestCase):
    """429s on which waiting does not help, although nothing says what is left."""

    def told(self, kind: str) -> Response:
        """What alice gets where all accounts say this; nobody is charged for it."""
        scene = Scene(self, "codex")
        scene.refuse(refusal(429, "no more", kind=kind), *ACCOUNTS)
        response = scene.told("alice", "warm")
        self.assertEqual((response.status, response.error["message"]), (429, "no more"))
        self.assertEqual((response.error["type"], scene.asked()), (kind, list(ACCOUNTS)))
        scene.assert_neighbours_unchanged()
        scene.assert_nobody_charged()
        scene.finish()
        return response

    def test_used_up_without_any_reset(self) -> None:
        self.assertIsNone(self.told("usage_limit_reached").header("retry-after"))

    def test_no_quota(self) -> None:
        self.assertIsNone(self.told("insufficient_quota").header("retry-after"))


class WorkspaceTests(SynchronousTestCase):
    """Accounts that their provider refuses."""

    def test_a_workspace_that_may_not_be_used(self) -> None:
        for status in (400, 403):
            scene = Scene(self, "codex")
            body = json.dumps({"error": {"code": "invalid_workspace_selected", "message": "Not yours."}})
            scene.refuse(http_response(status, body=body.encode()), "a1")
            scene.assert_served(["a1", "a2"], "alice", "warm", "odd")
            scene.assert_served(["a2"], "bob", "warm-too")
            response = scene.told("carol", "warm")
            self.assertEqual((response.status, scene.asked()), (400, []))
            self.assertIn("Not yours.", response.error["message"])
            self.assertEqual(scene.status("carol")["reason"], "refused")
            self.assertTrue(scene.is_logged("Not yours."))
            scene.finish()


class DeniedTests(SynchronousTestCase):
    """402, other 403s, and 400s that speak of an account."""

    def test_one_more_account_is_asked(self) -> None:
        for status, words in (
            (402, "Please pay."),
            (403, "Computer says no."),
            (400, "Your workspace does not do that."),
        ):
            scene = Scene(self, "codex")
            scene.refuse(refusal(status, words), *ACCOUNTS)
            response = scene.told("alice", "warm")
            self.assertEqual((response.status, response.error["message"]), (status, words))
            self.assertEqual(scene.asked(), ["a1", "a2"])
            scene.assert_neighbours_unchanged()
            scene.assert_nobody_charged()
            scene.finish()


class KeyTests(SynchronousTestCase):
    """A key of the commercial API."""

    def test_it_is_used_up(self) -> None:
        """Its limit renews at the time that it names: until then it is not asked, and its client is told to wait."""
        world = CodexPoolWorld(self)
        config = world.configuration.replace("credential: pool}", "credential: key}").replace(
            "      - {tag: pool,", "      - {tag: key, api_key: KEY}\n      - {tag: pool,"
        )
        world.reload(config)
        fields = (("x-ratelimit-remaining-tokens", "0"), ("x-ratelimit-reset-tokens", "30s"))
        world.upstream_says.scripts["key"] = refusal(429, "slow down", *fields, kind="rate_limit_exceeded")
        for asked in (["key"], []):
            response = only(world.send(request("hello", "User-Agent: codex_cli_rs/0.169.0")))
            self.assertEqual((response.status, response.header("x-ccm-error")), (429, "busy"))
            self.assertIn(int(response.header("retry-after") or 0), range(30, 39))
            self.assertEqual(world.upstream_says.asked(), asked)
        world.network.advance(31)
        world.upstream_says.scripts["key"] = http_response(200)
        self.assertEqual(only(world.send(request("hello"))).status, 200)
