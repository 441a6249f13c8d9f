"""Building credentials from what a configuration says of them."""

from __future__ import annotations

import os
from dataclasses import replace
from getpass import getuser
from pathlib import Path
from urllib.parse import urlsplit

from twisted.internet.interfaces import IReactorTime

from ccmproxy.config import CredentialConfig, ServiceConfig
from ccmproxy.credentials.account import Account
from ccmproxy.credentials.keychain import FirstOf, KeyringStore, service_name
from ccmproxy.credentials.lock import lock_path
from ccmproxy.credentials.store import FileStore
from ccmproxy.credentials.watch import FileWatcher
from ccmproxy.dialect import Dialect
from ccmproxy.http.client import ClientLimits, ConnectionPool
from ccmproxy.interfaces import ICredentialStore
from ccmproxy.oauth import ApiKey, UpstreamURLs
from ccmproxy.surroundings import Surroundings


class Assembly:
    """Builds the credentials of one service. ``watcher``: tells when a credential's file changes."""

    def __init__(self, dialect: Dialect, surroundings: Surroundings, watcher: FileWatcher) -> None:
        self._dialect = dialect
        self._surroundings = surroundings
        self._watcher = watcher

    def account(self, credential: CredentialConfig, config: ServiceConfig) -> Account:
        """The account that ``credential`` describes, not started.

        Raises OSError where a file that the way to the upstream needs cannot be used.
        """
        surroundings, dialect, upstream = self._surroundings, self._dialect, config.upstream
        clock: IReactorTime = surroundings.reactor
        urls = UpstreamURLs(
            api_url=(upstream.api_url or dialect.urls.api_url).rstrip("/"),
            token_url=upstream.token_url or dialect.urls.token_url,
            usage_url=upstream.usage_url or dialect.urls.usage_url,
            profile_url=upstream.profile_url or dialect.urls.profile_url,
            user_agent=upstream.user_agent or dialect.urls.user_agent,
            # Whoever names an address means it for keys as well.
            key_api_url="" if upstream.api_url else dialect.urls.key_api_url,
        )
        outbound = surroundings.outbound(upstream, credential.outbound)
        limits = ClientLimits(
            connect_timeout=upstream.connect_timeout,
            first_byte_timeout=upstream.first_byte_timeout,
            idle_timeout=upstream.idle_timeout,
        )

        def connections(url: str) -> ConnectionPool:
            return ConnectionPool(outbound.endpoint(*origin(url)), clock, limits)

        path = credential.credential_path
        if credential.api_key is not None:
            source: ICredentialStore | ApiKey = ApiKey(credential.api_key.get_secret_value())
        else:
            assert path is not None
            source = self._store(credential, path)
        return Account(
            credential.tag,
            source,
            dialect.account,
            urls,
            outbound,
            connections(urls.api_url),
            clock,
            surroundings.random.random,
            caps=credential.caps,
            plan_weight=credential.plan_weight,
            watcher=self._watcher,
            watched_path=path,
            lock_path=lock_path(os.path.dirname(path)) if path and dialect.has_client_lock else None,
            now=surroundings.now,
            key_connections=connections(urls.key_api_url) if urls.key_api_url else None,
        )

    def _store(self, credential: CredentialConfig, path: str) -> ICredentialStore:
        file, dialect = FileStore(path), self._dialect
        if not (self._surroundings.use_keychain and credential.is_default_path and dialect.keychain_service):
            return file
        home = str(Path.home())
        used, usual = (
            os.path.dirname(dialect.account.default_path(environ, home))
            for environ in (self._surroundings.environ, {})
        )
        name = service_name(dialect.keychain_service, used, usual)
        return FirstOf(KeyringStore(name, getuser()), file)


def same_login(credential: CredentialConfig) -> CredentialConfig:
    """What makes a credential the same one after a reload: everything but its caps and weight."""
    return replace(credential, short_cap=0.0, weekly_cap=0.0, plan_weight=None)


def origin(url: str) -> tuple[str, int, bool]:
    """Host, port and whether TLS is spoken, of an http or https URL that the configuration has checked."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return parts.hostname or "", parts.port or (443 if tls else 80), tls
