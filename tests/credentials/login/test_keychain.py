"""Tests of :mod:`ccmproxy.credentials.login.keychain`, with a keyring in memory."""

from __future__ import annotations

import hashlib
import os

from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked, PasswordDeleteError
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.keychain import FirstOf, KeyringStore, service_name
from ccmproxy.dialects.oauth import CredentialFileError
from tests.credentials.fixtures import CredentialTestCase


class MemoryKeyring(KeyringBackend):
    """A keychain. ``locked``: it refuses everything; ``read_only``: it refuses changes."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.items: dict[tuple[str, str], str] = {}
        self.locked = False
        self.read_only = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringLocked("secret reason")
        return self.items.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.locked or self.read_only:
            raise RuntimeError(f"a backend that quotes {password}")
        self.items[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        if self.locked or self.read_only or (service, username) not in self.items:
            raise PasswordDeleteError("no such password")
        del self.items[service, username]


class NameTests(SynchronousTestCase):
    def test_default(self) -> None:
        for directory in (None, "", "/home/me/.claude", "/home/me/.claude/"):
            self.assertEqual(service_name("Base", directory, "/home/me/.claude"), "Base")

    def test_elsewhere(self) -> None:
        digest = hashlib.sha256(b"/work/claude").hexdigest()[:8]
        self.assertEqual(service_name("Base", "/work/claude", "/home/me/.claude"), f"Base-{digest}")

    def test_composed_and_decomposed_names_are_one(self) -> None:
        self.assertEqual(service_name("B", "/caf\u00e9", "/x"), service_name("B", "/cafe\u0301", "/x"))


class KeyringTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.keyring = MemoryKeyring()
        self.store = KeyringStore("Service", "me", self.keyring)

    def test_round_trip(self) -> None:
        self.store.write(b'{"a": "\xc3\xa9"}')
        self.assertEqual(self.store.read(), b'{"a": "\xc3\xa9"}')
        self.assertEqual(self.keyring.items, {("Service", "me"): '{"a": "\u00e9"}'})

    def test_missing(self) -> None:
        error = self.assertRaises(CredentialFileError, self.store.read)
        self.assertEqual(str(error), 'keychain item "Service" does not exist')

    def test_backend_errors_quote_nothing(self) -> None:
        self.keyring.locked = True
        for call in (
            self.store.read,
            self.store.remove,
            self.store.check_writable,
            lambda: self.store.write(b"secret"),
        ):
            error = self.assertRaises(CredentialFileError, call)
            self.assertNotIn("secret", str(error))
            self.assertIsNone(error.__cause__)

    def test_check_writable_leaves_nothing(self) -> None:
        self.store.write(b"x")
        self.store.check_writable()
        self.assertEqual(self.keyring.items, {("Service", "me"): "x"})
        self.keyring.read_only = True
        self.assertRaises(CredentialFileError, self.store.check_writable)

    def test_remove(self) -> None:
        self.store.remove()
        self.store.write(b"x")
        self.store.remove()
        self.assertEqual(self.keyring.items, {})

    def test_the_systems_own_is_looked_up_at_first_use(self) -> None:
        import keyring

        before = keyring.get_keyring()
        keyring.set_keyring(self.keyring)
        self.addCleanup(keyring.set_keyring, before)
        KeyringStore("Service", "me").write(b"x")
        self.assertEqual(self.keyring.items, {("Service", "me"): "x"})


class FirstOfTests(CredentialTestCase):
    def test_what_a_crash_left_behind(self) -> None:
        """Beside the file; a keychain has nothing of the kind."""
        self.put(b'{"login": 1}')
        with open(os.path.join(self.config, ".login.json.0123456789abcdef.tmp"), "wb") as file:
            file.write(b'{"login": 2}')
        self.assertFalse(self.first.clean_up(lambda present, left: True))
        self.assertTrue(self.store.clean_up(lambda present, left: True))
        self.assertEqual(os.listdir(self.config), ["login.json"])
        self.assertEqual(self.store.read(), b'{"login": 2}')

    def setUp(self) -> None:
        super().setUp()
        self.keyring = MemoryKeyring()
        self.first = KeyringStore("Service", "me", self.keyring)
        self.store = FirstOf(self.first, FileStore(self.path))

    def held(self) -> tuple[bytes | None, bytes | None]:
        """Return the contents of the keychain and of the file."""
        item = self.keyring.items.get(("Service", "me"))
        if not os.path.exists(self.path):
            return item.encode() if item else None, None
        with open(self.path, "rb") as file:
            return item.encode() if item else None, file.read()

    def test_reads_the_keychain_first(self) -> None:
        self.put(b"file")
        self.assertEqual(self.store.read(), b"file")
        self.first.write(b"item")
        self.assertEqual(self.store.read(), b"item")

    def test_locked_from_the_beginning(self) -> None:
        """As on a machine that nobody is logged in to: the file is all there is."""
        self.put(b"file")
        self.first.write(b"item")
        self.keyring.locked = True
        self.assertEqual(self.store.read(), b"file")
        self.store.check_writable()

    def test_locked_for_a_while(self) -> None:
        """A file beside the keychain is stale, so that it does not stand in for it (spec 12.4)."""
        self.first.write(b"item")
        self.put(b"stale")
        self.assertEqual(self.store.read(), b"item")
        self.keyring.locked = True
        for call in (self.store.read, self.store.check_writable):
            error = self.assertRaises(CredentialFileError, call)
            self.assertTrue(error.is_passing)
        self.keyring.locked = False
        self.assertEqual(self.store.read(), b"item")
        self.store.check_writable()
        del self.keyring.items["Service", "me"]
        self.assertEqual(self.store.read(), b"stale")
        self.keyring.locked = True
        self.assertEqual(self.store.read(), b"stale")

    def test_an_item_that_became_stale_while_it_was_locked(self) -> None:
        """The newer login was written to the file, and takes the item's place when the keychain is unlocked."""
        self.first.write(b"1")
        self.put(b"1")
        self.keyring.locked = True
        self.store.write(b"2")
        self.assertFalse(self.store.clean_up(lambda present, left: left > present))
        self.keyring.locked = False
        self.assertEqual(self.store.read(), b"1")
        self.assertTrue(self.store.clean_up(lambda present, left: left > present))
        self.assertEqual((self.store.read(), self.held()), (b"2", (b"2", None)))

    def test_a_newer_item_stays(self) -> None:
        self.first.write(b"2")
        self.put(b"1")
        self.assertFalse(self.store.clean_up(lambda present, left: left > present))
        self.assertEqual(self.held(), (b"2", b"1"))

    def test_clients_are_told_no_names(self) -> None:
        for name in ("Service", self.directory):
            for locked in (False, True):
                self.keyring.locked = locked
                error = self.assertRaises(CredentialFileError, self.store.read)
                self.assertIn(name, str(error))
                self.assertNotIn(name, error.public)
                self.assertEqual(error.is_passing, locked)

    def test_neither(self) -> None:
        message = str(self.assertRaises(CredentialFileError, self.store.read))
        self.assertIn('keychain item "Service" does not exist', message)
        self.assertIn(f"{self.path} does not exist", message)

    def test_written_to_the_keychain_the_stale_file_goes(self) -> None:
        self.put(b"old")
        self.first.write(b"old")
        self.store.check_writable()
        self.store.write(b"new")
        self.assertEqual(self.held(), (b"new", None))

    def test_without_a_keychain_the_file_is_written(self) -> None:
        self.put(b"old")
        self.keyring.locked = True
        self.store.check_writable()
        self.store.write(b"new")
        self.assertEqual(self.held(), (None, b"new"))

    def test_stale_item_goes_when_the_file_is_written(self) -> None:
        self.put(b"old")
        self.first.write(b"old")
        writing = self.keyring.set_password

        def refuse(service: str, username: str, password: str) -> None:
            raise RuntimeError("no")

        self.keyring.set_password = refuse  # type: ignore[method-assign]
        self.store.write(b"new")
        self.keyring.set_password = writing  # type: ignore[method-assign]
        self.assertEqual(self.held(), (None, b"new"))

    def test_stale_item_that_stays_is_a_failed_write(self) -> None:
        """The next read would return the stale item, so this is reported before a refresh and after a write."""
        self.put(b"old")
        self.first.write(b"old")
        self.keyring.read_only = True
        self.assertRaises(CredentialFileError, self.store.check_writable)
        self.assertRaises(CredentialFileError, self.store.write, b"new")

    def test_neither_is_writable(self) -> None:
        self.keyring.locked = True
        message = str(self.assertRaises(CredentialFileError, self.store.check_writable))
        self.assertIn("keychain item", message)
        self.assertIn(self.path, message)
