"""Tokens and keys: in the file, in a separate file, or in the environment. Exactly one source is allowed.

Messages name the option, never its value: somebody may have put the token itself where the name of its file belongs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import SecretStr

from ccmproxy.config.checks import credential_type, entries
from ccmproxy.config.problems import Path, Report

#: What an Authorization header can carry as one token (RFC 9110 section 11.2, interpreted liberally).
_TOKEN = re.compile(r"[!-~]{1,4096}")


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets that were found, by the path of the option without its ``_file`` or ``_env``."""

    values: Mapping[Path, SecretStr] = field(default_factory=dict)

    def get(self, path: Path) -> SecretStr | None:
        """The secret at ``path``; None where none is given."""
        return self.values.get(path)


def read_secrets(
    document: Mapping[str, Any], environ: Mapping[str, str], read_file: Callable[[str], bytes], report: Report
) -> Secrets:
    """Read every token and key that ``document`` names, and report those missing, unreadable or given twice.

    ``read_file`` takes the path as written in the document; it may raise OSError. Every secret that is found is added
    to those that ``report`` must not repeat.
    """
    values: dict[Path, SecretStr] = {}

    def find(options: Mapping[str, Any], path: Path, name: str, required: bool) -> str | None:
        text = _find(options, path, name, required, environ, read_file, report)
        if text is not None:
            report.secrets.add(text)
            values[(*path, name)] = SecretStr(text)
        return text

    def find_token(options: Mapping[str, Any], path: Path, owners: dict[str, str] | None) -> None:
        """Find the token in ``options``.

        ``owners``: token → path of the option that already has it, as tokens must be unique; None: duplicates are
        allowed.
        """
        token = find(options, path, "token", required=True)
        if token is None or owners is None:
            return
        if token in owners:
            at = next(each for each in ("token", "token_file", "token_env") if options.get(each) is not None)
            report.add((*path, at), f"is the same token as that of {owners[token]}")
        owners.setdefault(token, f"{path[-2]}[{path[-1]}]")

    for path, service in entries(document, (), "services"):
        # A remote that connects to us is identified by its token, so no two remotes may have the same one.
        remotes: dict[str, str] = {}
        for entry_path, credential in entries(service, path, "credentials"):
            if credential_type(credential) == "external":
                find_token(credential, entry_path, None if credential.get("reverse") is True else remotes)
            elif credential_type(credential) == "default":
                find(credential, entry_path, "api_key", required=False)
        users: dict[str, str] = {}
        for user_path, user in entries(service, path, "users"):
            find_token(user, user_path, users)
    return Secrets(values)


def _find(
    options: Mapping[str, Any],
    path: Path,
    name: str,
    required: bool,
    environ: Mapping[str, str],
    read_file: Callable[[str], bytes],
    report: Report,
) -> str | None:
    alternatives = (name, f"{name}_file", f"{name}_env")
    given = [each for each in alternatives if options.get(each) is not None]
    if not given:
        if required:
            report.add((*path, name), f'is required (or "{name}_file", or "{name}_env")')
        return None
    if name == "token":  # for an API key, the check of all sources of an account reports it
        for each in given[1:]:
            report.add((*path, each), f'cannot be given together with "{given[0]}"')
    option, value = given[0], options[given[0]]
    below = (*path, option)
    if not isinstance(value, str):
        return None
    if option.endswith("_file"):
        try:
            text = read_file(value).decode("ascii").strip()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            report.add(below, f"the file cannot be read: {reason or 'it does not hold a token'}")
            return None
        fault = "the file does not hold exactly one token (printable ASCII characters, no spaces)"
    elif option.endswith("_env"):
        if value not in environ:
            report.add(below, "this environment variable is not set")
            return None
        text = environ[value].strip()
        fault = "this environment variable does not hold a token (printable ASCII characters, no spaces)"
    else:
        text = value
        fault = "must be printable ASCII characters without spaces, and not empty"
        if text and text != text.strip():
            fault = "must not begin or end with a space or a line break"
    if not _TOKEN.fullmatch(text):
        report.add(below, fault)
        return None
    return text
