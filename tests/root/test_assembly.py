"""Tests of building credentials from a configuration: their outbounds, and the stores of their logins."""

from __future__ import annotations

import os
from dataclasses import replace
from getpass import getuser
from typing import Any
from urllib.parse import urlsplit

import keyring
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from ccmproxy.config import Config, OutboundConfig, UpstreamConfig, load_text
from ccmproxy.credentials.destination import host_field
from ccmproxy.credentials.login.keychain import service_name
from ccmproxy.dialects.codex import CODEX
from ccmproxy.interfaces.network import IOutbound
from ccmproxy.policy.retry import LeaseOutcome
from ccmproxy.root.service import ProxyService
from tests.conversation import CONFIGURATION, TOKEN, UPSTREAM, Client, World
from tests.credentials.login.test_keychain import MemoryKeyring
from tests.transports.proxies import ConnectProxy, Proxy, SocksProxy


def configuration(world: World, more: str = "", text: str = CONFIGURATION, **values: str) -> Config:
    """Return a configuration for ``world``."""
    return load_text(text.format(path=world.path, token=TOKEN, more=more, **values), "test.yaml")


def reload(world: World, config: Config) -> None:
    """Reload ``config``, and wait until that is done."""
    done = world.service.reload(config)
    world.network.flush()
    world.case.successResultOf(done)


@implementer(IStreamClientEndpoint)
class _Recording:
    """An endpoint that reports each connection made through it."""

    def __init__(self, endpoint: IStreamClientEndpoint, made: list[Any]) -> None:
        self._endpoint = endpoint
        self._made = made

    def connect(self, protocol_factory: Any) -> Deferred[Any]:
        """Connect, and record the connection."""

        def connected(protocol: Any) -> Any:
            self._made.append(protocol)
            return protocol

        return self._endpoint.connect(protocol_factory).addCallback(connected)


@implementer(IOutbound)
class RecordingOutbound:
    """Another outbound, counting connections by (host, port)."""

    def __init__(self, outbound: IOutbound, made: dict[tuple[str, int], list[Any]]) -> None:
        self._outbound = outbound
        self._made = made

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        """See IOutbound."""
        made = self._made.setdefault((host, port), [])
        return _Recording(self._outbound.endpoint(host, port, tls), made)


DETOUR = (
    CONFIGURATION.replace("    users:\n", "    detour: tunnel\n    users:\n")
    + """
outbounds:
  - {{tag: tunnel, type: {kind}, server: 127.0.0.1, server_port: 1080, username: me, password: {password}}}
"""
)


class OutboundTests(SynchronousTestCase):
    """The routes of connections."""

    proxy: Proxy

    def test_every_connection_of_a_credential_goes_through_its_outbound(self) -> None:
        """F30: turns, refreshes, usage and profile requests go to different addresses, all through the outbound."""
        text = CONFIGURATION
        ports = {"token": 9001, "usage": 9002, "profile": 9003}
        for name, port in ports.items():
            text = text.replace(f"{name}_url: http://127.0.0.1:9000", f"{name}_url: http://127.0.0.1:{port}")
        world = World(self, configuration=text, start=False)
        made: dict[tuple[str, int], list[Any]] = {}
        outbound = world.surroundings.outbound
        object.__setattr__(
            world.surroundings, "outbound", lambda *way: RecordingOutbound(outbound(*way), made)
        )
        world.service = ProxyService(configuration(world, text=text), world.surroundings)
        for port in ports.values():
            world.network.listen("127.0.0.1", port, world.simulator.factory)
        with open(world.path, "wb") as file:
            file.write(world.login.credentials_document(plan_known=False))
        world.start()
        world.answer()
        world.clock.advance(8 * 3600)  # The token expires.
        world.answer()
        world.network.advance(1)
        self.assertEqual(set(made), {("127.0.0.1", port) for port in (9000, 9001, 9002, 9003)})
        for address, connections in made.items():
            self.assertGreater(len(connections), 0, address)
            self.assertEqual(len(connections), len(world.network.listeners[address].connections), address)

    def tunnelled(self, kind: str, login: tuple[str, str] | None = None, password: str = "s3cr3t") -> World:
        """Return a world, not started, whose one account uses a proxy at 127.0.0.1:1080."""
        text = DETOUR.replace("{kind}", kind).replace("{password}", password)
        world = World(self, configuration=text, start=False)
        make = {"socks": SocksProxy, "http": ConnectProxy}[kind]
        self.proxy = make(lambda host, port: world.network.endpoint(host, port), login)
        world.network.listen("127.0.0.1", 1080, self.proxy)
        return world

    def test_every_connection_of_a_credential_goes_through_its_detour(self) -> None:
        """F30, through real proxies: the upstream receives only what has passed the proxy."""
        for kind in ("socks", "http"):
            world = self.tunnelled(kind, ("me", "s3cr3t"))
            world.start()
            self.assertEqual(world.answer().status, 200)
            world.clock.advance(8 * 3600)  # The token expires.
            self.assertEqual(world.answer().status, 200)
            self.assertEqual(world.login.counters.refreshes, 1)
            self.assertGreater(len(world.upstream.connections), 2)
            self.assertEqual(self.proxy.asked, [UPSTREAM] * len(world.upstream.connections))
            self.assertEqual(set(self.proxy.logins), {("me", "s3cr3t")})
            self.assertFalse("s3cr3t" in world.logged(), "the password was logged")

    def test_a_proxy_that_refuses(self) -> None:
        """The log reports it for requests and for polls, without the password."""
        world = self.tunnelled("http", ("me", "s3cr3t"), password="another-5ecret")
        world.start()
        client = world.ask()
        world.until(lambda: bool(client.responses()), 30)
        self.assertGreaterEqual(client.responses()[0].status, 500)
        self.assertIn("the proxy refuses the tunnel: 407", world.logged())
        self.assertEqual(world.upstream.connections, [])
        for secret in ("another-5ecret", "bWU6"):
            self.assertFalse(secret in world.logged(), "the login was logged")

    def test_another_detour_makes_another_credential(self) -> None:
        """Reload: a credential with an unchanged outbound is kept, even if the outbound has another tag."""
        world = self.tunnelled("http")
        world.start()
        account = world.account

        def over(*changes: tuple[str, str]) -> None:
            text = DETOUR.replace("{kind}", "http").replace("{password}", "s3cr3t")
            for old, new in changes:
                self.assertIn(old, text)
                text = text.replace(old, new)
            reload(world, configuration(world, text=text))

        over(("tunnel", "office"))
        self.assertIs(world.account, account)
        over(("s3cr3t", "s3cr3t-2"))
        self.assertIsNot(world.account, account)
        self.assertEqual(world.answer().status, 200)
        asked = len(self.proxy.asked)
        over(("    detour: tunnel\n", ""))
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(len(self.proxy.asked), asked)


class KeychainTests(SynchronousTestCase):
    """On macOS, without an explicit path, the login is first looked for in the keychain (spec 3.1)."""

    def test_served_and_refreshed_from_the_keychain(self) -> None:
        previous = keyring.get_keyring()
        self.addCleanup(keyring.set_keyring, previous)
        keychain = MemoryKeyring()
        keyring.set_keyring(keychain)
        world = World(self, start=False, with_file=False)
        directory = self.mktemp()
        os.mkdir(directory)
        environ = {"CLAUDE_CONFIG_DIR": os.path.abspath(directory)}
        item = (
            service_name("Claude Code-credentials", environ["CLAUDE_CONFIG_DIR"], "/home/.claude"),
            getuser(),
        )
        keychain.items[item] = world.login.credentials_document().decode()
        text = CONFIGURATION.replace("    credential_path: {path}\n", "")
        config = load_text(text.format(token=TOKEN, more=""), "test.yaml", environ=environ)
        surroundings = replace(world.surroundings, environ=environ, use_keychain=True)
        world.service = ProxyService(config, surroundings)
        world.start()
        self.assertEqual(world.answer().status, 200)
        # The token is refused: the refreshed login is written to the store that it was read from.
        world.login.expire_access_token()
        self.assertEqual(world.answer().status, 200)
        self.assertEqual(world.login.counters.refreshes, 1)
        self.assertTrue(world.login.access_token in keychain.items[item], "the keychain holds the new login")
        self.assertEqual(os.listdir(directory), [])

    def test_an_explicit_path_is_that_file(self) -> None:
        previous = keyring.get_keyring()
        self.addCleanup(keyring.set_keyring, previous)
        keychain = MemoryKeyring()
        keychain.locked = True
        keyring.set_keyring(keychain)
        world = World(self, start=False)
        world.service = ProxyService(world.service.config, replace(world.surroundings, use_keychain=True))
        world.start()
        self.assertEqual(world.answer().status, 200)


class AccountTests(SynchronousTestCase):
    """The upstream for the requests of an account (spec 3.7)."""

    CONFIGURATION = """
services:
  - type: ocm
    listen_port: 8080
    credentials:
      - {{tag: key, api_key: sk-secret-1}}
      - {{tag: file, credential_path: "{path}"}}
    users: [{{name: alice, token: "{token}", credential: key}}]
    upstream: {{{upstream}}}
"""

    def destinations(self, document: bytes, upstream: str = "") -> list[tuple[bytes, bytes]]:
        """Return host and base path of the requests of a key, and of a file with this content."""
        world = World(self, start=False)
        with open(world.path, "wb") as file:
            file.write(document)
        text = self.CONFIGURATION.format(path=world.path, token=TOKEN, upstream=upstream)
        service = ProxyService(load_text(text, "test.yaml"), world.surroundings)
        (entry,) = service.services.values()
        found = []
        for account in entry.accounts.values():
            account.start()
            lease = account.lease()
            self.successResultOf(Deferred.fromCoroutine(lease.authorize()))
            found.append((lease.host, lease.base_path))
            lease.close(LeaseOutcome.SERVED)
            self.successResultOf(account.stop())
        return found

    def test_keys_have_an_api_of_their_own(self) -> None:
        login, key = CODEX.urls.api_url, CODEX.urls.key_api_url
        self.assertNotEqual(login, key)
        (at_login, at_key) = ((host_field(url), urlsplit(url).path.encode()) for url in (login, key))
        tokens = (
            b'{"tokens": {"access_token": "a", "refresh_token": "r"}, "last_refresh": "2099-01-01T00:00:00Z"}'
        )
        self.assertEqual(self.destinations(tokens), [at_key, at_login])
        self.assertEqual(self.destinations(b'{"OPENAI_API_KEY": "sk-secret-2"}'), [at_key, at_key])

    def test_an_address_of_the_configuration_is_for_both(self) -> None:
        expected = [(b"127.0.0.1:9000", b"/x")] * 2
        found = self.destinations(b'{"OPENAI_API_KEY": "sk-secret-2"}', 'api_url: "http://127.0.0.1:9000/x/"')
        self.assertEqual(found, expected)


class RemoteTests(SynchronousTestCase):
    """Remote instances: the address to connect to, and the requests that they receive."""

    CONFIGURATION = """
services:
  - type: {type}
    listen_port: 8080
    credentials:
      - {{tag: friend, type: external, token: friend-token-4711, url: "{url}", reverse: true{more}}}
    users: [{{name: alice, token: "{token}", credential: friend, allow_external_usage: true}}]
"""

    def dialled(self, address: tuple[str, int], **values: str) -> tuple[list[bytes], list[tuple[Any, ...]]]:
        """Return the request lines and Hosts received at this address, sorted, and the calls of the outbound."""
        world = World(self, start=False)
        listener = Listener()
        world.network.listen(*address, listener)
        asked: list[tuple[Any, ...]] = []
        memory = world.surroundings.outbound

        def outbound(upstream: UpstreamConfig, detour: OutboundConfig | None) -> IOutbound:
            return AskedOutbound(memory(upstream, detour), asked)

        object.__setattr__(world.surroundings, "outbound", outbound)
        text = self.CONFIGURATION.format(**{"more": "", "type": "ccm", "token": TOKEN} | values)
        service = ProxyService(load_text(text, "test.yaml"), world.surroundings)
        service.startService()
        world.network.flush()
        stopped = service.stopService()
        for _ in range(3):
            world.network.advance(1)
        self.successResultOf(stopped)
        self.assertEqual(world.clock.getDelayedCalls(), [])
        return sorted(listener.heads()), asked

    def test_where_the_url_says(self) -> None:
        for url, address, host in (
            ("http://friend.example", ("friend.example", 80), b"friend.example"),
            ("https://friend.example/", ("friend.example", 443), b"friend.example"),
            ("https://friend.example:8443/team/", ("friend.example", 8443), b"friend.example:8443"),
        ):
            prefix = b"/team" if "team" in url else b""
            heads, asked = self.dialled(address, url=url)
            self.assertEqual(
                heads,
                [
                    b"GET %b/ccm/v1/reverse HTTP/1.1 to %b" % (prefix, host),
                    b"GET %b/ccm/v1/status HTTP/1.1 to %b" % (prefix, host),
                ],
            )
            self.assertEqual(set(asked), {(*address, url.startswith("https"), "friend.example")})

    def test_another_address(self) -> None:
        """Connections go to that address; the URL still determines Host and the name that TLS verifies."""
        for more, address in (
            (", server: 10.0.0.1, server_port: 5", ("10.0.0.1", 5)),
            (", server: 10.0.0.1", ("10.0.0.1", 443)),
            (", server_port: 5", ("friend.example", 5)),
        ):
            heads, asked = self.dialled(address, url="https://friend.example", more=more)
            self.assertEqual(len(heads), 2)
            self.assertTrue(all(head.endswith(b" to friend.example") for head in heads), heads)
            self.assertEqual(set(asked), {(*address, True, "friend.example")})

    def test_the_other_dialect(self) -> None:
        heads, _ = self.dialled(("friend.example", 80), type="ocm", url="http://friend.example")
        self.assertEqual([head.split()[1] for head in heads], [b"/ocm/v1/reverse", b"/ocm/v1/status"])


@implementer(IOutbound)
class AskedOutbound:
    """Another outbound. ``asked``: the endpoints that were requested."""

    def __init__(self, outbound: IOutbound, asked: list[tuple[Any, ...]]) -> None:
        self._outbound = outbound
        self._asked = asked

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        """See IOutbound."""
        self._asked.append((host, port, tls, server_name))
        return self._outbound.endpoint(host, port, tls, server_name)


class Listener(Factory):
    """Records what it receives, and never answers."""

    noisy = False

    def __init__(self) -> None:
        self.built: list[Client] = []

    def buildProtocol(self, addr: object) -> Client:
        """Count a connection."""
        self.built.append(Client())
        return self.built[-1]

    def heads(self) -> list[bytes]:
        """Return the request line and the Host of each request."""
        found = []
        for each in self.built:
            first, *fields = bytes(each.received).partition(b"\r\n\r\n")[0].split(b"\r\n")
            (host,) = (field[6:] for field in fields if field.lower().startswith(b"host: "))
            found.append(first + b" to " + host)
        return found
