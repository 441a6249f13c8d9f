"""Checks between options: names that must exist or be unique, options that exclude or need each other.

All checks work on the document as it was read, not on the models of the schema, so that one wrong option does not hide
problems elsewhere: a value of the wrong type is simply skipped here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ccmproxy.config import addresses
from ccmproxy.config.problems import Path, Report
from ccmproxy.config.units import size_of
from ccmproxy.config.values import LONGEST_BODY

#: Port of a service without ``listen_port``.
DEFAULT_PORTS: Mapping[str, int] = {"ccm": 8080, "ocm": 8081}
DEFAULT_LISTEN = "127.0.0.1"

#: Fields that frame a message or belong to one connection (RFC 9110 section 7.6.1), which the proxy sets itself.
FRAMING_HEADERS = frozenset(
    """
    connection content-length expect keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer
    transfer-encoding upgrade
    """.split()
)

#: Bytes of a user name or password for SOCKS (RFC 1929 section 2).
_LONGEST_SOCKS_LOGIN = 255

#: Options that name the source of an account; exactly one of them is allowed.
_SOURCES = ("credential_path", "claude_directory", "api_key", "api_key_file", "api_key_env")
_API_KEY = ("api_key", "api_key_file", "api_key_env")

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110 section 5.5; sent as latin-1

Options = Mapping[str, Any]


def check_document(document: Options, report: Report) -> None:
    """Report every problem between the options of ``document``."""
    outbounds = _check_outbounds(document, report)
    taken: list[tuple[Path, addresses.ListenAddress]] = []
    tags: dict[str, Path] = {}
    for path, service in entries(document, (), "services"):
        _unique(service.get("tag"), (*path, "tag"), tags, "tag", report)
        _check_address(path, service, taken, report)
        _check_tls(path, service, report)
        _check_upstream(path, service, report)
        _check_headers(path, service, report)
        _check_sizes(path, service, report)
        _check_detour(path, service, outbounds, report)
        _check_single_mode(path, service, report)
        types = _check_tags(path, service, report)
        for entry_path, credential in entries(service, path, "credentials"):
            _check_credential(entry_path, credential, service, report)
            _check_detour(entry_path, credential, outbounds, report)
            if credential_type(credential) == "balancer":
                _check_pool(entry_path, credential, service, types, report)
        _check_users(path, service, types, report)
    _check_prices(document, report)


def entries(options: Options, path: Path, name: str) -> Iterator[tuple[Path, Options]]:
    """Each mapping in the list ``name`` of ``options``, with its path."""
    values = options.get(name)
    if isinstance(values, list):
        for index, value in enumerate(values):
            if isinstance(value, Mapping):
                yield (*path, name, index), value


def credential_type(credential: Options) -> object:
    """The ``type`` of a credential, which is optional."""
    kind = credential.get("type")
    return "default" if kind is None else kind


# Services -------------------------------------------------------------------------------------------------


def _check_address(
    path: Path, service: Options, taken: list[tuple[Path, addresses.ListenAddress]], report: Report
) -> None:
    endpoint = service.get("endpoint")
    option = "listen"
    if endpoint:
        option = "endpoint"
        for other in ("listen", "listen_port"):
            if service.get(other) is not None:
                report.add((*path, other), 'cannot be given together with "endpoint"')
    address = listen_address(service)
    if address is None:
        return
    for other_path, other_address in taken:
        if address.overlaps(other_address):
            at = next(
                (name for name in ("endpoint", "listen_port", "listen") if service.get(name) is not None),
                None,
            )
            where = f"{other_path[0]}[{other_path[1]}]"
            report.add((*path, at or "listen_port"), f"{address.text} is already the address of {where}")
            break
    taken.append((path, address))
    if not address.is_local and not service.get("users") and service.get("allow_anonymous") is not True:
        report.add(
            (*path, option),
            "others can reach this address, and the service has no users: whoever does could use the subscription."
            ' Give it "users", or a loopback address or unix socket, or set "allow_anonymous: true"',
        )


def listen_address(service: Options) -> addresses.ListenAddress | None:
    """Where a service would listen; None where its options are not valid."""
    endpoint, listen, port = service.get("endpoint"), service.get("listen"), service.get("listen_port")
    try:
        if endpoint:
            return addresses.parse_endpoint(endpoint) if isinstance(endpoint, str) else None
        listen = DEFAULT_LISTEN if listen is None else listen
        port = DEFAULT_PORTS.get(str(service.get("type"))) if port is None else port
        if isinstance(listen, str) and type(port) is int and 0 <= port <= 65535:
            return addresses.tcp_address(listen, port)
    except ValueError:
        pass  # reported as an invalid value
    return None


def _check_tls(path: Path, service: Options, report: Report) -> None:
    tls = service.get("tls")
    if not isinstance(tls, Mapping) or not tls or tls.get("enabled") is False:
        return
    for name in ("certificate_path", "key_path"):
        if tls.get(name) in (None, ""):
            report.add((*path, "tls", name), "is required to serve TLS")


def _check_upstream(path: Path, service: Options, report: Report) -> None:
    upstream = service.get("upstream")
    if not isinstance(upstream, Mapping) or upstream.get("allow_insecure") is True:
        return
    for name in ("api_url", "token_url", "usage_url", "profile_url"):
        try:
            url = addresses.parse_url(upstream[name]) if isinstance(upstream.get(name), str) else None
        except ValueError:
            continue
        if url and url.scheme == "http" and not addresses.is_loopback(url.hostname or ""):
            report.add(
                (*path, "upstream", name),
                'must be https unless it leads to a loopback address (or "allow_insecure: true" is set)',
            )


def _check_headers(path: Path, service: Options, report: Report) -> None:
    headers = service.get("headers")
    if not isinstance(headers, Mapping):
        return
    seen: set[str] = set()
    for name, values in headers.items():
        below = (*path, "headers", name)
        if not _HEADER_NAME.fullmatch(name):
            report.add(below, "is not a valid header name")
        elif name.lower() in FRAMING_HEADERS:
            report.add(below, "cannot be set: the proxy sets this header itself")
        elif name.lower() in seen:
            report.add(below, "is given twice (upper and lower case are the same)")
        seen.add(name.lower())
        if values == []:
            report.add(below, "must have a value")
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, str) and (not _HEADER_VALUE.fullmatch(value) or value != value.strip()):
                report.add(
                    below, "has a value that a header cannot hold (control characters, or spaces at its ends)"
                )


def _check_sizes(path: Path, service: Options, report: Report) -> None:
    bodies = size_of(service.get("max_request_bodies"))
    body = size_of(LONGEST_BODY if service.get("max_request_body") is None else service["max_request_body"])
    if bodies is not None and body is not None and bodies < 2 * body:
        report.add(
            (*path, "max_request_bodies"),
            "must be at least twice max_request_body: one user can have half of it",
        )


def _check_single_mode(path: Path, service: Options, report: Report) -> None:
    if not service.get("credentials"):
        return
    for name in ("credential_path", "usages_path", "detour"):
        if service.get(name):
            report.add(
                (*path, name),
                f'cannot be given together with "credentials": move "{name}" into one of its entries',
            )


# Outbounds ------------------------------------------------------------------------------------------------


def _check_outbounds(document: Options, report: Report) -> dict[str, Path]:
    tags: dict[str, Path] = {}
    for path, outbound in entries(document, (), "outbounds"):
        _unique(outbound.get("tag"), (*path, "tag"), tags, "tag", report)
        if outbound.get("password") is not None and not outbound.get("username"):
            report.add((*path, "password"), 'needs "username"')
        _check_login(path, outbound, report)
    return tags


def _check_login(path: Path, outbound: Options, report: Report) -> None:
    """Report what the protocol cannot carry: lengths are one byte in RFC 1929, a colon is the separator in RFC 7617."""
    for name in ("username", "password"):
        value = outbound.get(name)
        if not isinstance(value, str):
            continue
        if any(character < " " or character == "\x7f" for character in value):
            report.add((*path, name), "must not contain control characters")
        elif outbound.get("type") == "socks" and len(value.encode()) > _LONGEST_SOCKS_LOGIN:
            report.add((*path, name), f"must be at most {_LONGEST_SOCKS_LOGIN} bytes")
        elif outbound.get("type") == "http" and name == "username" and ":" in value:
            report.add((*path, name), "must not contain a colon: it ends the user name")


def _check_detour(path: Path, options: Options, outbounds: Mapping[str, Path], report: Report) -> None:
    detour = options.get("detour")
    if detour and isinstance(detour, str) and detour not in outbounds:
        report.add(
            (*path, "detour"),
            f"there is no outbound {report.shown(detour)}{report.nearest(detour, outbounds)}",
        )


# Prices ---------------------------------------------------------------------------------------------------


def _check_prices(document: Options, report: Report) -> None:
    """Report models that are named twice: names of models mean the same in upper and lower case."""
    prices = document.get("prices")
    seen: dict[str, str] = {}
    for model in prices if isinstance(prices, Mapping) else ():
        if isinstance(model, str) and (other := seen.setdefault(model.lower(), model)) != model:
            report.add(("prices", model), f"is the same model as {report.shown(other)}")


# Credentials ----------------------------------------------------------------------------------------------


def _check_tags(path: Path, service: Options, report: Report) -> dict[str, object]:
    """Report missing and duplicate tags. Returns tag → type of credential."""
    types: dict[str, object] = {}
    seen: dict[str, Path] = {}
    for entry_path, credential in entries(service, path, "credentials"):
        tag = credential.get("tag")
        _unique(tag, (*entry_path, "tag"), seen, "tag", report)
        if tag is None:
            report.add((*entry_path, "tag"), "is required")
        elif isinstance(tag, str):
            types.setdefault(tag, credential_type(credential))
    return types or ({} if service.get("credentials") else {"default": "default"})


def _check_credential(path: Path, credential: Options, service: Options, report: Report) -> None:
    kind = credential_type(credential)
    if kind == "default":
        given = [name for name in _SOURCES if credential.get(name) not in (None, "")]
        for name in given[1:]:
            report.add((*path, name), f'cannot be given together with "{given[0]}"')
        if credential.get("claude_directory") and service.get("type") == "ocm":
            report.add((*path, "claude_directory"), "is for services of type ccm only")
        if (
            credential.get("plan_weight") is not None
            and service.get("type") == "ccm"
            and not set(given) & set(_API_KEY)
        ):
            report.add(
                (*path, "plan_weight"),
                "is for API keys and external credentials: an account has that of its plan",
            )
        for window in ("5h", "weekly"):
            if credential.get(f"reserve_{window}") and credential.get(f"limit_{window}"):
                report.add((*path, f"reserve_{window}"), f'cannot be given together with "limit_{window}"')
    elif kind == "external" and credential.get("url") is None:
        for name in ("reverse", "server", "server_port"):
            if credential.get(name):
                report.add((*path, name), 'needs "url"')


def _check_pool(
    path: Path, pool: Options, service: Options, types: Mapping[str, object], report: Report
) -> None:
    members = pool.get("credentials")
    if isinstance(members, str):
        members = [members]
    if not isinstance(members, list):
        return
    if not members:
        report.add((*path, "credentials"), "must hold at least one tag")
    keyed = {
        credential.get("tag")
        for _, credential in entries(service, (), "credentials")
        if any(credential.get(name) for name in _API_KEY) and isinstance(credential.get("tag"), str)
    }
    seen: set[str] = set()
    for index, tag in enumerate(members):
        below = (*path, "credentials", index)
        if not isinstance(tag, str):
            continue
        if tag in seen:
            report.add(below, f"{report.shown(tag)} is listed twice")
        elif tag not in types:
            report.add(below, f"there is no credential {report.shown(tag)}{report.nearest(tag, types)}")
        elif types[tag] == "balancer":
            report.add(below, f"{report.shown(tag)} is a pool: pools cannot be members of pools")
        elif tag in keyed and service.get("type") == "ocm":
            report.add(
                below, f"{report.shown(tag)} has an API key: Codex API keys cannot be members of a pool"
            )
        seen.add(tag)


# Users ----------------------------------------------------------------------------------------------------


def _check_users(path: Path, service: Options, types: Mapping[str, object], report: Report) -> None:
    names: dict[str, Path] = {}
    credentials = service.get("credentials")
    if credentials is not None and not isinstance(credentials, list):
        types = {}
    several = isinstance(credentials, list) and len(credentials) > 1
    for user_path, user in entries(service, path, "users"):
        _unique(user.get("name"), (*user_path, "name"), names, "name", report)
        tag = user.get("credential")
        if tag in (None, ""):
            if several:
                report.add((*user_path, "credential"), "is required where there is more than one credential")
        elif isinstance(tag, str) and types and tag not in types:
            report.add(
                (*user_path, "credential"),
                f"there is no credential {report.shown(tag)}{report.nearest(tag, types)}",
            )
        elif (
            isinstance(tag, str)
            and types.get(tag) == "external"
            and user.get("allow_external_usage") is not True
        ):
            report.add(
                (*user_path, "credential"),
                'is an external credential: the user needs "allow_external_usage: true"',
            )
        external = user.get("external_credential")
        if external and isinstance(external, str) and types:
            below = (*user_path, "external_credential")
            if external not in types:
                report.add(
                    below, f"there is no credential {report.shown(external)}{report.nearest(external, types)}"
                )
            elif types[external] != "external":
                report.add(below, f"{report.shown(external)} is not an external credential")


def _unique(value: object, path: Path, seen: dict[str, Path], noun: str, report: Report) -> None:
    if not isinstance(value, str):
        return
    if value in seen:
        first = "".join(f"[{each}]" if isinstance(each, int) else f".{each}" for each in seen[value][:-1])
        report.add(path, f"the {noun} {report.shown(value)} is already that of {first.lstrip('.')}")
    seen.setdefault(value, path)
