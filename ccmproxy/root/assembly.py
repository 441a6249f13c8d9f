"""Builds credentials from their configuration."""

from __future__ import annotations

import os
from dataclasses import replace
from getpass import getuser
from pathlib import Path
from urllib.parse import urlsplit

from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint

from ccmproxy.config import CredentialConfig, ExternalConfig, ServiceConfig, UpstreamConfig
from ccmproxy.credentials.destination import UpstreamAccess, host_field, origin, upstream_of
from ccmproxy.credentials.key import KeyAccount
from ccmproxy.credentials.login.account import LoginAccount, LoginPlace
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.keychain import FirstOf, KeyringStore, service_name
from ccmproxy.credentials.login.lock import lock_path
from ccmproxy.credentials.login.watch import FileWatcher
from ccmproxy.credentials.remote.external import External, RemoteSide
from ccmproxy.dialects.base import Dialect
from ccmproxy.dialects.oauth import ApiKey, UpstreamURLs
from ccmproxy.http.client.connection_pool import ClientLimits, ConnectionPool
from ccmproxy.interfaces.credentials import ICredentialStore
from ccmproxy.reverse.connector import Connector
from ccmproxy.reverse.upgrading import asking
from ccmproxy.root.surroundings import Surroundings

#: Time-out for the remote's answer to the handshake of a reverse connection (seconds).
HANDSHAKE_TIMEOUT = 20.0

#: A default credential of either kind.
Account = LoginAccount | KeyAccount


class Assembly:
    """Builds the credentials of one service. ``watcher`` reports changes of credential files. ``factory`` serves the
    requests that arrive over the reverse connections that this instance opens to remotes."""

    def __init__(
        self,
        dialect: Dialect,
        surroundings: Surroundings,
        watcher: FileWatcher,
        factory: IProtocolFactory,
    ) -> None:
        self._dialect = dialect
        self._factory = factory
        self._surroundings = surroundings
        self._watcher = watcher

    def account(self, credential: CredentialConfig, config: ServiceConfig) -> Account:
        """Return the account that ``credential`` describes. It is not started.

        Raises OSError when a file that connections to the upstream need, such as the certificates, cannot be used.
        """
        surroundings, dialect, upstream = self._surroundings, self._dialect, config.upstream
        clock = surroundings.clock
        urls = UpstreamURLs(
            api_url=(upstream.api_url or dialect.urls.api_url).rstrip("/"),
            token_url=upstream.token_url or dialect.urls.token_url,
            usage_url=upstream.usage_url or dialect.urls.usage_url,
            profile_url=upstream.profile_url or dialect.urls.profile_url,
            user_agent=upstream.user_agent or dialect.urls.user_agent,
            # An API address in the configuration applies to keys as well.
            key_api_url="" if upstream.api_url else dialect.urls.key_api_url,
        )
        outbound = surroundings.outbound(upstream, credential.outbound)
        limits = _client_limits(upstream)

        def connections(url: str) -> ConnectionPool:
            return ConnectionPool(outbound.endpoint(*origin(url)), clock, limits)

        if credential.api_key is not None:
            url = urls.key_api_url or urls.api_url
            return KeyAccount(
                credential.tag,
                ApiKey(credential.api_key.get_secret_value()),
                upstream_of(url, connections(url)),
                clock,
                caps=credential.caps,
                plan_weight=credential.plan_weight,
                now=surroundings.now,
            )
        return LoginAccount(
            credential.tag,
            self._login_place(credential),
            dialect.account,
            UpstreamAccess(
                urls,
                outbound,
                connections(urls.api_url),
                connections(urls.key_api_url) if urls.key_api_url else None,
            ),
            clock,
            surroundings.random.random,
            caps=credential.caps,
            plan_weight=credential.plan_weight,
            watcher=self._watcher,
            now=surroundings.now,
        )

    def _login_place(self, credential: CredentialConfig) -> LoginPlace:
        path = credential.credential_path
        assert path is not None, "without a key there is a path"
        lock = lock_path(os.path.dirname(path)) if self._dialect.has_client_lock else None
        return LoginPlace(self._store(credential, path), path, lock)

    def external(self, remote: ExternalConfig, config: ServiceConfig) -> tuple[External, Connector | None]:
        """Return the remote instance that ``remote`` describes, and the connector that keeps a reverse connection to it
        open if this instance is to open one. Neither is started.

        Raises OSError as :meth:`account` does.
        """
        surroundings, dialect, upstream = self._surroundings, self._dialect, config.upstream
        clock = surroundings.clock
        limits = _client_limits(upstream)
        agent = upstream.user_agent or dialect.urls.user_agent
        prefix = dialect.path_prefix.decode("ascii")
        token = remote.token.get_secret_value()
        endpoint: IStreamClientEndpoint | None = None
        connector: Connector | None = None
        if remote.url is not None:
            host, port, tls = origin(remote.url)
            endpoint = surroundings.outbound(upstream, remote.outbound).endpoint(
                remote.server or host, remote.server_port or port, tls, host
            )
            if remote.is_connector:
                base_path = urlsplit(remote.url).path.rstrip("/")
                connector = Connector(
                    remote.tag,
                    ConnectionPool(endpoint, clock, replace(limits, first_byte_timeout=HANDSHAKE_TIMEOUT)),
                    asking(
                        host_field(remote.url), f"{base_path}{prefix}reverse".encode("ascii"), token, agent
                    ),
                    self._factory,
                    clock,
                    surroundings.random.random,
                    surroundings.has_address,
                )
        external = External(
            remote.tag,
            token,
            RemoteSide(f"{prefix}status", agent),
            clock,
            surroundings.random.random,
            url=remote.url,
            endpoint=endpoint,
            limits=limits,
            plan_weight=remote.plan_weight,
            is_connector=remote.is_connector,
            now=surroundings.now,
        )
        return external, connector

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


def _client_limits(upstream: UpstreamConfig) -> ClientLimits:
    return ClientLimits(
        connect_timeout=upstream.connect_timeout,
        first_byte_timeout=upstream.first_byte_timeout,
        idle_timeout=upstream.idle_timeout,
    )
