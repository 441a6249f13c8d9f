"""Logins in the system's keychain, as the official client keeps them on macOS (spec 3.1)."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from typing import TYPE_CHECKING

from zope.interface import implementer

from ccmproxy.credentials.login.file import FileStore
from ccmproxy.dialects.oauth import CredentialFileError
from ccmproxy.interfaces.credentials import ICredentialStore

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

#: Suffix of the account name of the item that :meth:`KeyringStore.check_writable` creates and removes.
_PROBE = ".write-test"


def service_name(base: str, config_directory: str | None, default_directory: str) -> str:
    """The name of the keychain item.

    ``base``: the dialect's name for it. ``config_directory``: the environment's override of where the client keeps
    its configuration, None or empty where there is none; ``default_directory``: where it keeps it otherwise. An
    override elsewhere is told apart by the first 8 hex digits of its SHA-256 (spec 3.1).
    """
    if not config_directory or os.path.normpath(config_directory) == os.path.normpath(default_directory):
        return base
    digest = hashlib.sha256(unicodedata.normalize("NFC", config_directory).encode("utf-8", "surrogateescape"))
    return f"{base}-{digest.hexdigest()[:8]}"


@implementer(ICredentialStore)
class KeyringStore:
    """One item of the keychain, through the ``keyring`` package. ``account`` is the user's name.

    ``backend`` None: the system's own, looked up at first use. ``keyring`` is imported at first use too: most
    installations never need it.
    """

    def __init__(self, service: str, account: str, backend: KeyringBackend | None = None) -> None:
        self._service = service
        self._account = account
        self._backend = backend
        self.description = f'keychain item "{service}"'

    def read(self) -> bytes:
        """The item's content. Raises CredentialFileError where there is none, or no keychain."""
        with _Translated(self.description, "cannot be read"):
            text = self._keyring().get_password(self._service, self._account)
        if not text or not text.strip():
            raise CredentialFileError(f"{self.description} does not exist")
        return text.encode("utf-8")

    def write(self, document: bytes) -> None:
        """Replace the item's content. Raises CredentialFileError where the keychain does not do it."""
        with _Translated(self.description, "cannot be written"):
            self._keyring().set_password(self._service, self._account, document.decode("utf-8"))

    def check_writable(self) -> None:
        """Raise CredentialFileError if a write would fail: creates an item beside this one, and removes it."""
        with _Translated(self.description, "cannot be written"):
            keyring = self._keyring()
            keyring.set_password(self._service, self._account + _PROBE, "test")
            keyring.delete_password(self._service, self._account + _PROBE)

    def remove(self) -> None:
        """Delete the item; one that does not exist is no error. Raises CredentialFileError where it may remain."""
        with _Translated(self.description, "cannot be removed"):
            keyring = self._keyring()
            if keyring.get_password(self._service, self._account) is not None:
                keyring.delete_password(self._service, self._account)

    def _keyring(self) -> KeyringBackend:
        if self._backend is None:
            import keyring

            self._backend = keyring.get_keyring()
        return self._backend


@implementer(ICredentialStore)
class FirstOf:
    """A keychain item, and a file where the keychain does not do (spec 3.1).

    At most one copy is kept: after a write to one of them the other's is removed, because a stale copy would be
    believed later, and its refresh token has been used up.
    """

    def __init__(self, first: KeyringStore, second: FileStore) -> None:
        self._first = first
        self._second = second
        self.description = f"{first.description} or {second.description}"

    def read(self) -> bytes:
        """The keychain's document, else the file's. Raises CredentialFileError with both reasons where neither can be
        read."""
        try:
            return self._first.read()
        except CredentialFileError as error:
            first_problem = error
        try:
            return self._second.read()
        except CredentialFileError as error:
            raise CredentialFileError(f"{first_problem}; {error}") from None

    def write(self, document: bytes) -> None:
        """Write to the keychain, else to the file. Raises OSError or CredentialFileError where the file cannot be
        written either.

        If the file was written but the keychain's old copy could not be removed, that is a failure: the next read
        would find the old one.
        """
        try:
            self._first.write(document)
        except CredentialFileError:
            self._second.write(document)
            if self._has_first():
                self._first.remove()
            return
        try:
            self._second.remove()
        except OSError:
            pass  # never read while the keychain has one

    def check_writable(self) -> None:
        """Raise CredentialFileError if neither can be written; or if only the file could, and the keychain has an old
        copy, which would be read first."""
        try:
            self._first.check_writable()
        except CredentialFileError as error:
            if self._has_first():
                # The file would be written, but this copy would stay and win.
                raise
            try:
                self._second.check_writable()
            except CredentialFileError as second_error:
                raise CredentialFileError(f"{error}; {second_error}") from None

    def _has_first(self) -> bool:
        try:
            self._first.read()
        except CredentialFileError:
            return False
        return True


class _Translated:
    """Turns whatever a keyring backend raises into a CredentialFileError that quotes nothing of it.

    Backends raise their own errors and those of the libraries below them; all mean that the keychain did not do it.
    """

    def __init__(self, description: str, problem: str) -> None:
        self._description = description
        self._problem = problem

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Raises CredentialFileError in place of any other Exception."""
        if isinstance(error, Exception):
            raise CredentialFileError(
                f"{self._description} {self._problem} ({type(error).__name__})"
            ) from None
