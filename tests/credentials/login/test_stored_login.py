"""Tests of :mod:`ccmproxy.credentials.login.stored_login`: what is read, and its effects."""

from __future__ import annotations

import os
from dataclasses import replace

from ccmproxy.credentials.login.stored_login import StoredLogin, is_login
from ccmproxy.dialects.oauth import ApiKey, OAuthToken
from ccmproxy.interfaces.credentials import CredentialUnavailable
from tests.credentials.fixtures import NOW, CredentialTestCase, PlainFormat, login
from tests.credentials.login.keeping import Disk, TokenTestCase


class StoredLoginTests(CredentialTestCase):
    """The login alone, without a keeper that refreshes it."""

    def setUp(self) -> None:
        super().setUp()
        self.store = Disk(self.path)
        self.changes = 0
        self.login = StoredLogin(self.store, PlainFormat(), self.clock, self.changed, self.clock.seconds)
        self.put(login())

    def changed(self) -> None:
        self.changes += 1

    def token(self) -> OAuthToken:
        """Return the usable login."""
        present = self.login.present()
        assert isinstance(present, OAuthToken)
        return present

    def unavailable(self) -> CredentialUnavailable:
        """Return why there is no usable login."""
        error: CredentialUnavailable = self.assertRaises(CredentialUnavailable, self.login.present)
        return error

    def test_before_it_is_loaded(self) -> None:
        """A mere read has no effect."""
        self.assertIn("not loaded", str(self.unavailable()))
        _, read = self.login.read()
        assert isinstance(read, OAuthToken)
        self.assertEqual(read.access_token, "a1")
        self.assertIn("not loaded", str(self.unavailable()))
        self.assertEqual(self.changes, 0)
        self.login.load()
        self.assertEqual(self.token(), read)
        self.assertEqual(self.changes, 1)

    def test_a_write_that_fails(self) -> None:
        """The login is unchanged."""
        self.login.load()
        document = self.login.document
        self.store.full = True
        successor = replace(self.token(), access_token="a2")
        self.assertRaises(OSError, self.login.write, document, successor)
        self.assertEqual(self.login.document, document)
        self.assertEqual((self.stored()["access"], self.token().access_token), ("a1", "a1"))

    def test_a_write_is_no_change_by_somebody_else(self) -> None:
        """Reading a document that this process has written lifts no block."""
        self.login.load()
        assert self.login.document is not None
        self.login.write(self.login.document, replace(self.token(), access_token="a2"))
        self.login.block_refresh(NOW + 60, "later")
        self.login.load()
        self.assertEqual(self.token().access_token, "a2")
        self.assertEqual(self.login.refresh_blocked(self.token()), "later")

    def test_saved_ends_a_hard_failure(self) -> None:
        self.login.load()
        token = self.token()
        self.assertTrue(self.login.refused_for_good(token).hard)
        self.assertTrue(self.unavailable().hard)
        self.login.load()
        self.assertTrue(self.unavailable().hard)
        assert self.login.document is not None
        self.login.unsaved = token, token
        successor = replace(token, access_token="a2", refresh_token="r2")
        self.login.write(self.login.document, successor)
        self.login.take(self.login.saved(successor), None)
        self.assertEqual(self.token().access_token, "a2")
        self.assertIsNone(self.login.unsaved)
        self.login.load()
        self.assertEqual(self.token().access_token, "a2")

    def test_refresh_blocked_for_a_while(self) -> None:
        self.login.load()
        self.login.block_refresh(NOW + 5, "busy")
        self.clock.advance(4)
        self.assertEqual(self.login.refresh_blocked(self.token()), "busy")
        self.clock.advance(1)
        self.assertIsNone(self.login.refresh_blocked(self.token()))
        self.login.block_refresh(NOW + 60, "busy")
        self.login.load(changed=True)
        self.assertIsNone(self.login.refresh_blocked(self.token()))

    def test_each_kind_of_cause_has_delays_of_its_own(self) -> None:
        """A disk that was full for a while does not lengthen the wait after a refusal to minutes (spec 12.4)."""
        self.assertEqual([self.login.postpone("the disk is full") for _ in range(4)], [5, 10, 20, 40])
        limited = [self.login.postpone("429", None, 30.0, 900.0, "rate limit") for _ in range(2)]
        self.assertEqual(limited, [30, 60])
        self.assertEqual(self.login.postpone("500", kind="endpoint"), 5)
        self.assertEqual(self.login.postpone("the disk is full"), 80)
        self.login.unblock()
        self.assertEqual(self.login.postpone("429", None, 30.0, 900.0, "rate limit"), 30)
        self.assertEqual(self.login.postpone("the disk is full"), 5)

    def test_refresh_refused_for_good(self) -> None:
        """The refusal lasts until there is another refresh token."""
        self.login.load()
        token = self.token()
        self.assertTrue(self.login.refused_for_good(token).hard)
        self.assertRaises(CredentialUnavailable, self.login.refresh_blocked, token)
        self.login.load(changed=True)
        self.assertIn("log in again", str(self.unavailable()))
        self.put(login("a2", "r2"))
        self.login.load()
        self.assertIsNone(self.login.refresh_blocked(self.token()))

    def test_what_a_crash_left_behind(self) -> None:
        """The successor of the login, which was written but not renamed, takes its place; the rest is removed
        (spec 3.2 point 6)."""
        self.put(login("a1", "r1", NOW + 100))
        whole = login("a2", "r2", NOW + 7200)
        for number, left in enumerate((whole[:30], b"\0" * 50, b"", login("a0", "r0", NOW), whole)):
            with open(f"{self.config}/.login.json.{number:016x}.tmp", "wb") as file:
                file.write(left)
        self.login.load()
        self.assertEqual(self.token().access_token, "a2")
        self.assertEqual((self.stored()["refresh"], os.listdir(self.config)), ("r2", ["login.json"]))

    def test_what_a_crash_left_behind_is_older(self) -> None:
        """Or not a successor: the same refresh token, a login without one, another account's."""
        for left in (
            login("a0", "r0", NOW),
            login("a2", "r1", NOW + 7200),
            login("a2", None, NOW + 7200),
            b'{"key": "k"}',
        ):
            self.put(login("a1", "r1", NOW + 100))
            with open(f"{self.config}/.login.json.{1:016x}.tmp", "wb") as file:
                file.write(left)
            self.login.load()
            self.assertEqual((self.token().access_token, os.listdir(self.config)), ("a1", ["login.json"]))

    def test_identity_is_remembered(self) -> None:
        """Of a login whose file does not name it: as long as one of its tokens is the same, and of its successor
        (spec 12.5)."""
        self.login.load()
        self.assertIsNone(self.token().account_id)
        self.login.identify(replace(self.token(), account_id="org-1"))
        self.login.load()
        self.assertEqual(self.token().account_id, "org-1")
        self.put(login("a2", "r1"))
        self.login.load()
        self.assertEqual(self.token().account_id, "org-1")
        successor = replace(self.token(), access_token="a3", refresh_token="r3")
        assert self.login.document is not None
        self.login.write(self.login.document, successor)
        self.login.take(self.login.saved(successor), None)
        self.assertEqual(self.token().account_id, "org-1")
        self.put(login("b1", "s1"))
        self.login.load()
        self.assertIsNone(self.token().account_id)

    def test_reread(self) -> None:
        """A login that is unusable because of a hard failure is returned too."""
        self.login.load()
        self.login.refused_for_good(self.token())
        token = self.login.reread()
        self.assertTrue(is_login(token, OAuthToken("a1", "r1")))
        self.put(b"{")
        error: CredentialUnavailable = self.assertRaises(CredentialUnavailable, self.login.reread)
        self.assertTrue(error.hard)
        self.assertIsNone(self.login.document)


class ReadTests(TokenTestCase):
    def test_fresh_token_is_used_without_looking(self) -> None:
        self.load(login(expires=NOW + 3600))
        os.unlink(self.path)
        self.assertEqual(self.authorized(), "a1")
        self.assertEqual(self.upstream.requests, [])

    def test_never_expires(self) -> None:
        self.load(login(expires=None))
        self.assertEqual(self.authorized(), "a1")

    def test_key_in_the_file(self) -> None:
        self.load(b'{"key": "k"}')
        self.assertEqual(self.successResultOf(self.authorize()), ApiKey("k"))
        error = self.error(self.keeper.recover(ApiKey("k")), CredentialUnavailable)
        self.assertFalse(error.hard)
        self.put(b'{"key": "k2"}')
        self.assertEqual(self.result(self.keeper.recover(ApiKey("k"))), ApiKey("k2"))

    def test_every_defect_of_a_file(self) -> None:
        """Each defect is reported by a sentence, at once, and a repaired file is used."""
        whole = login(expires=NOW + 3600)
        for name, document, problem in (
            ("empty", b"", "is empty"),
            ("truncated", whole[:40], "not valid JSON"),
            ("not JSON", b"hello", "not valid JSON"),
            ("lacks the key", b'{"other": 1}', "login field not found"),
            ("not text", b"\xff\xfe", "not UTF-8"),
        ):
            self.load(document)
            self.assertIsNone(self.keeper.authorization, name)
            self.assertIn(problem, self.keeper.problem or "", name)
            self.clock.advance(3)
            self.assertIn(problem, self.refused(), name)
            self.load(whole)
            self.assertEqual(self.authorized(), "a1")

    def test_directory_and_missing(self) -> None:
        self.keeper.load()
        self.assertIn("does not exist", self.refused())
        os.mkdir(self.path)
        self.keeper.load()
        self.assertIn("is a directory", self.refused())

    def test_reread_on_demand_every_two_seconds(self) -> None:
        self.keeper.load()
        self.put(login(expires=NOW + 3600))
        self.clock.advance(1.9)
        self.refused()
        self.clock.advance(0.1)
        self.assertEqual(self.authorized(), "a1")

    def test_changes_are_told(self) -> None:
        self.load(login(expires=NOW + 3600))
        self.assertEqual(self.changes, 1)
        self.keeper.load()
        self.assertEqual(self.changes, 1)
        os.unlink(self.path)
        self.keeper.load()
        self.assertEqual(self.changes, 2)
        self.assertIsNone(self.keeper.authorization)
