"""Reads a configuration: the file, the secrets that it names, and the environment. The rest of the package is pure.

The whole file is checked before anything is returned, and every problem is reported at once (spec 1, Errors).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ccmproxy.config import schema
from ccmproxy.config.building import Place, build_config
from ccmproxy.config.checks import check_document, credential_type, entries
from ccmproxy.config.document import LONGEST, Document, DocumentError, read_document
from ccmproxy.config.not_supported import check_supported, is_supported
from ccmproxy.config.problems import ConfigurationError, Problem, Report
from ccmproxy.config.secret_sources import Secrets, read_secrets
from ccmproxy.config.shape import check_shape
from ccmproxy.config.values import Config
from ccmproxy.dialects.catalog import DIALECTS

#: Bytes that are read, at most, of a file with a single token.
_SECRET_FILE = 64 * 1024
#: Name of the credential file in a configuration directory of Claude Code.
_CLAUDE_FILE = ".credentials.json"
#: Permission bits that allow everybody to read a file.
_READABLE_BY_OTHERS = 0o004


@dataclass(frozen=True, slots=True)
class _Surroundings:
    """What a configuration depends on besides its text. ``directory``: the base of its relative paths."""

    environ: Mapping[str, str]
    home: str
    directory: str

    def absolute(self, path: str) -> str:
        """The absolute form of ``path`` from the file, with ``~`` expanded."""
        if path == "~" or path.startswith("~/"):
            path = self.home + path[1:]
        return os.path.normpath(os.path.join(self.directory, path))

    @property
    def place(self) -> Place:
        """The same as a value for :mod:`ccmproxy.config.building`."""
        return Place(self.absolute, self._client_file)

    def _client_file(self, kind: str) -> str:
        return os.path.abspath(DIALECTS[kind].account.default_path(self.environ, self.home))


def load(
    path: str | os.PathLike[str],
    *,
    environ: Mapping[str, str] | None = None,
    home: str | None = None,
    home_of: Callable[[str], str | None] | None = None,
) -> Config:
    """Read and check the file at ``path``. Relative paths in it are relative to its directory.

    ``environ``, ``home`` (a directory) and ``home_of`` (user name → home, for sudo) default to those of the process.
    Raises ConfigurationError with every problem, also for a file that cannot be read.
    """
    name = os.fspath(path)
    try:
        with open(name, "rb") as file:
            content = file.read(4 * LONGEST + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise ConfigurationError(
            [Problem("", f"cannot be read: {reason or 'not a valid path'}", name)]
        ) from None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        column = error.start - before.rfind(b"\n")
        message = "is not UTF-8 text"
        raise ConfigurationError([Problem("", message, name, before.count(b"\n") + 1, column)]) from None
    absolute = os.path.abspath(name)
    surroundings = _surroundings(environ, home, home_of, os.path.dirname(absolute))
    return _load(text, name, surroundings, absolute)


def load_text(
    text: str,
    name: str,
    *,
    directory: str | None = None,
    environ: Mapping[str, str] | None = None,
    home: str | None = None,
    home_of: Callable[[str], str | None] | None = None,
) -> Config:
    """Check a configuration that is given as text. ``name`` stands for the file in messages.

    ``directory``: the base of relative paths, by default the working directory. The other arguments are those of
    :func:`load`. Raises ConfigurationError.
    """
    return _load(text, name, _surroundings(environ, home, home_of, directory or os.getcwd()), None)


def default_config(
    environ: Mapping[str, str] | None = None,
    home: str | None = None,
    *,
    home_of: Callable[[str], str | None] | None = None,
    is_file: Callable[[str], bool] = os.path.isfile,
) -> Config:
    """The configuration without any file (spec 1): every provider on its own port, on the loopback address.

    Claude is always served; other providers where their official CLI has left a credential file.
    """
    surroundings = _surroundings(environ, home, home_of, os.getcwd())
    types = ["ccm"]
    for kind, dialect in DIALECTS.items():
        if kind not in types and is_supported("services[].type", kind):
            if is_file(dialect.account.default_path(surroundings.environ, surroundings.home)):
                types.append(kind)
    options = schema.FileOptions.model_validate({"services": [{"type": kind} for kind in types]})
    return build_config(options, Secrets(), surroundings.place, None)


def readable_by_others(config: Config) -> tuple[str, ...]:
    """Those files with secrets that every user of this machine may read. Missing files are left out."""
    found = []
    for path in config.secret_files:
        try:
            mode = os.stat(path).st_mode
        except OSError:
            continue
        if mode & _READABLE_BY_OTHERS:
            found.append(path)
    return tuple(found)


def _surroundings(
    environ: Mapping[str, str] | None,
    home: str | None,
    home_of: Callable[[str], str | None] | None,
    directory: str,
) -> _Surroundings:
    environ = os.environ if environ is None else environ
    home = os.path.expanduser("~") if home is None else home
    # Under sudo, the login is that of the invoking user, not root's.
    user = environ.get("SUDO_USER")
    return _Surroundings(environ, ((home_of or _home_of)(user) if user else None) or home, directory)


def _home_of(user: str) -> str | None:
    if "/" in user:
        return None
    path = os.path.expanduser(f"~{user}")
    return None if path.startswith("~") else path


def _load(text: str, name: str, surroundings: _Surroundings, path: str | None) -> Config:
    try:
        document = read_document(text)
    except DocumentError as error:
        at = error.position
        raise ConfigurationError(
            [Problem("", str(error), name, at.line if at else None, at.column if at else None)]
        ) from None
    report = Report(name, document.positions, document.secrets)
    options, secrets = _check(document, surroundings, report)
    problems = report.problems()
    if problems or options is None:
        raise ConfigurationError(problems)
    return build_config(options, secrets, surroundings.place, path)


def _check(
    document: Document, surroundings: _Surroundings, report: Report
) -> tuple[schema.FileOptions | None, Secrets]:
    for path, message, position in document.faults:
        report.add(path, message, position)
    value = document.value
    if value is None:
        report.add((), 'is empty: it needs at least "services"')
        return None, Secrets()
    if not isinstance(value, dict):
        report.add((), 'must be a mapping of options, with "services" among them')
        return None, Secrets()
    # Secrets come first, so that the later checks do not repeat them in messages.
    secrets = read_secrets(
        value, surroundings.environ, lambda path: _read_secret(surroundings.absolute(path)), report
    )
    options = check_shape(value, report)
    check_document(value, report)
    check_supported(value, report)
    _check_credential_paths(value, surroundings, report)
    return options, secrets


def _check_credential_paths(document: Mapping[str, Any], surroundings: _Surroundings, report: Report) -> None:
    """Report a directory where an account's file should be: a service could never log in from it.

    A missing file is no problem, because the login may come later. A container engine that is told to mount a missing
    file makes a directory of it.
    """
    for path, service in entries(document, (), "services"):
        message = "is a directory: name the credential file in it"
        if _is_directory(service.get("credential_path"), surroundings):
            report.add((*path, "credential_path"), message)
        for entry_path, credential in entries(service, path, "credentials"):
            if credential_type(credential) != "default":
                continue
            if _is_directory(credential.get("credential_path"), surroundings):
                hint = ', or use "claude_directory"' if service.get("type") == "ccm" else ""
                report.add((*entry_path, "credential_path"), message + hint)
            folder = credential.get("claude_directory")
            if folder and isinstance(folder, str):
                if os.path.isfile(surroundings.absolute(folder)):
                    report.add(
                        (*entry_path, "claude_directory"), 'is a file, not a directory: use "credential_path"'
                    )
                elif _is_directory(f"{folder}/{_CLAUDE_FILE}", surroundings):
                    report.add(
                        (*entry_path, "claude_directory"),
                        f"holds a directory in place of the file {_CLAUDE_FILE}",
                    )


def _is_directory(path: object, surroundings: _Surroundings) -> bool:
    return bool(path) and isinstance(path, str) and os.path.isdir(surroundings.absolute(path))


def _read_secret(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(_SECRET_FILE)
