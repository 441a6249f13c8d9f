"""A store in the system's keychain, where the official client keeps its login on macOS (spec 3.1)."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Callable
from typing import TYPE_CHECKING

from zope.interface import implementer

from ccmproxy.credentials.login.file import FileStore
from ccmproxy.dialects.oauth import CredentialFileError
from ccmproxy.interfaces.credentials import ICredentialStore

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

#: Suffix of the account name of the item that :meth:`KeyringStore.check_writable` creates and removes.
_PROBE = ".write-test"
#: What clients are told of the keychain instead of the name of the item.
_PUBLIC = "its keychain item"


def service_name(base: str, config_directory: str | None, default_directory: str) -> str:
    """Return the name of the keychain item.

    ``base``: the dialect's name of the item. ``config_directory``: the client's configuration directory as the
    environment sets it, None or empty if it does not; ``default_directory``: the directory in that case. A
    ``config_directory`` other than the default adds the first 8 hex digits of its SHA-256 to the name (spec 3.1).
    """
    if not config_directory or os.path.normpath(config_directory) == os.path.normpath(default_directory):
        return base
    digest = hashlib.sha256(unicodedata.normalize("NFC", config_directory).encode("utf-8", "surrogateescape"))
    return f"{base}-{digest.hexdigest()[:8]}"


@implementer(ICredentialStore)
class KeyringStore:
    """One item of the keychain, accessed through the ``keyring`` package. ``account`` is the user's name.

    Without ``backend`` the system's default backend is looked up at first use. ``keyring`` is also imported at first
    use, because most installations never need it.
    """

    def __init__(self, service: str, account: str, backend: KeyringBackend | None = None) -> None:
        self._service = service
        self._account = account
        self._backend = backend
        self.description = f'keychain item "{service}"'

    def read(self) -> bytes:
        """Return the content of the item. Raises CredentialFileError when there is no item or no keychain; it is a
        passing one unless the keychain says that there is no item."""
        with _Translated(self.description, "cannot be read"):
            text = self._keyring().get_password(self._service, self._account)
        if not text or not text.strip():
            raise CredentialFileError(
                f"{self.description} does not exist", public=f"{_PUBLIC} does not exist"
            )
        return text.encode("utf-8")

    def write(self, document: bytes) -> None:
        """Replace the content of the item. Raises CredentialFileError when the keychain refuses."""
        with _Translated(self.description, "cannot be written"):
            self._keyring().set_password(self._service, self._account, document.decode("utf-8"))

    def check_writable(self) -> None:
        """Raise CredentialFileError if a write would fail. Creates another item to find out, and removes it again."""
        with _Translated(self.description, "cannot be written"):
            keyring = self._keyring()
            keyring.set_password(self._service, self._account + _PROBE, "test")
            keyring.delete_password(self._service, self._account + _PROBE)

    def clean_up(self, is_newer: Callable[[bytes, bytes], bool]) -> bool:
        """Do nothing: a keychain has no temporary files."""
        return False

    def remove(self) -> None:
        """Delete the item if it exists. Raises CredentialFileError when the item may still exist afterwards."""
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
    """A keychain item with a file as the fallback (spec 3.1).

    Only one copy is kept: a write to one store removes the copy in the other. A stale copy could be read later, and its
    refresh token is already used up. Where a copy in a locked keychain could not be removed, the newer one replaces it
    as soon as both can be read (:meth:`clean_up`).
    """

    def __init__(self, first: KeyringStore, second: FileStore) -> None:
        self._first = first
        self._second = second
        #: Whether the keychain held the login when it could be read last. While it is locked, the file, which then is
        #: missing or stale, does not stand in for it.
        self._is_in_first = False
        self.description = f"{first.description} or {second.description}"

    def read(self) -> bytes:
        """Return the document of the keychain or, failing that, of the file. Raises CredentialFileError with both
        reasons when neither can be read, or that of the keychain when it held the document but cannot be read now."""
        try:
            document = self._first.read()
        except CredentialFileError as error:
            if error.is_passing and self._is_in_first:
                raise
            first_problem = error
        else:
            self._is_in_first = True
            return document
        self._is_in_first = False
        try:
            return self._second.read()
        except CredentialFileError as error:
            raise _both(first_problem, error) from None

    def write(self, document: bytes) -> None:
        """Write to the keychain or, failing that, to the file.

        Raises OSError or CredentialFileError when the file cannot be written either, and CredentialFileError when the
        file was written but the old copy in the keychain could not be removed: the next read would return the old copy.
        """
        try:
            self._first.write(document)
        except CredentialFileError:
            self._second.write(document)
            if self._has_first():
                self._first.remove()
                self._is_in_first = False
            return
        self._is_in_first = True
        try:
            self._second.remove()
        except OSError:
            pass  # The file is never read while the keychain has a copy.

    def check_writable(self) -> None:
        """Raise CredentialFileError if neither store can be written, or if only the file can and the keychain has an
        old copy, which would be read first."""
        try:
            self._first.check_writable()
        except CredentialFileError as error:
            if self._has_first():
                # A write would go to the file, but this old copy would stay and take precedence.
                raise
            try:
                self._second.check_writable()
            except CredentialFileError as second_error:
                raise _both(error, second_error) from None

    def clean_up(self, is_newer: Callable[[bytes, bytes], bool]) -> bool:
        """Clean up after the file, and remove a copy that is stale because the keychain was locked when its successor
        was written to the file. See :class:`.ICredentialStore`."""
        replaced = self._second.clean_up(is_newer)
        try:
            second = self._second.read()
            first = self._first.read()
        except CredentialFileError:
            return replaced  # There is only one copy, or the keychain is still locked.
        try:
            if is_newer(first, second):
                self._first.write(second)
                self._second.remove()
                return True
        except (CredentialFileError, OSError):
            pass  # The next read finds both copies again.
        return replaced

    def _has_first(self) -> bool:
        """Return whether the keychain has a copy, as far as can be told."""
        try:
            self._first.read()
        except CredentialFileError as error:
            return error.is_passing and self._is_in_first
        return True


def _both(one: CredentialFileError, other: CredentialFileError) -> CredentialFileError:
    """Return the error for two stores neither of which can be used."""
    return CredentialFileError(
        f"{one}; {other}",
        public=f"{one.public}; {other.public}",
        is_passing=one.is_passing or other.is_passing,
    )


class _Translated:
    """Turns any exception of a keyring backend into a CredentialFileError that does not quote its message.

    Backends raise errors of their own and of the libraries that they use. All mean that the operation failed.
    """

    def __init__(self, description: str, problem: str) -> None:
        self._description = description
        self._problem = problem

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Raises CredentialFileError in place of any other Exception."""
        if isinstance(error, Exception):
            problem = f"{self._problem} ({type(error).__name__})"
            raise CredentialFileError(
                f"{self._description} {problem}", public=f"{_PUBLIC} {problem}", is_passing=True
            ) from None
