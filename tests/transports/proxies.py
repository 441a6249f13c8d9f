"""Small proxies for tests, SOCKS5 and HTTP CONNECT, which connect wherever a test lets them."""

from __future__ import annotations

import ipaddress
from base64 import b64decode
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IAddress, IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

#: How a proxy refuses a destination: reply code of SOCKS, status of HTTP.
NOT_ALLOWED = (2, 403)
UNREACHABLE = (4, 502)

Way = Callable[[str, int], IStreamClientEndpoint]


class Proxy(Factory):
    """``way``: makes the endpoint for a destination. ``login``: required user name and password; None: not required.

    ``asked``: host and port of every request; ``logins``: the login sent with each; ``forbidden``: destinations
    that are refused; ``open``: connections from clients that are open.
    """

    def __init__(self, way: Way, login: tuple[str, str] | None = None) -> None:
        self.way = way
        self.login = login
        self.asked: list[tuple[str, int]] = []
        self.logins: list[tuple[str, str] | None] = []
        self.forbidden: set[str] = set()
        self.open = 0


class SocksProxy(Proxy):
    """SOCKS5."""

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Socks(self)


class ConnectProxy(Proxy):
    """HTTP CONNECT."""

    def buildProtocol(self, addr: IAddress | None) -> Protocol:
        return _Connect(self)


class _Leg(Protocol):
    """One of two joined connections; data received on it is written to ``other``, with back-pressure."""

    transport: Any
    other: _Leg | None = None

    def join(self, other: _Leg) -> None:
        self.other, other.other = other, self
        self.transport.registerProducer(other.transport, True)
        other.transport.registerProducer(self.transport, True)

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:  # else it is gone
            self.other.transport.write(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        other, self.other = self.other, None
        if other is not None:
            other.transport.unregisterProducer()
            other.transport.loseConnection()


class _Client(_Leg):
    """The connection to the client: does the proxy's handshake until it is joined with the one to the destination."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.received = b""
        self.connecting = False

    def connectionMade(self) -> None:
        self.proxy.open += 1

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.proxy.open -= 1
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        if self.other is not None:
            super().dataReceived(data)
            return
        self.received += data
        while not self.connecting and self.parse():
            pass

    def parse(self) -> bool:
        raise NotImplementedError

    def reply(self, refusal: tuple[int, int] | None) -> None:
        raise NotImplementedError

    def connect(self, host: str, port: int) -> None:
        self.connecting = True
        self.proxy.asked.append((host, port))
        if host in self.proxy.forbidden:
            self.refuse(NOT_ALLOWED)
            return
        self.proxy.way(host, port).connect(Factory.forProtocol(_Leg)).addCallbacks(
            self.reached, lambda reason: self.refuse(UNREACHABLE)
        )

    def reached(self, leg: Any) -> None:
        self.reply(None)
        self.join(leg)
        if self.received:
            leg.transport.write(self.received)

    def refuse(self, refusal: tuple[int, int]) -> None:
        self.reply(refusal)
        self.transport.loseConnection()


class _Socks(_Client):
    step = "greeting"

    def take(self, size: int) -> bytes:
        taken, self.received = self.received[:size], self.received[size:]
        return taken

    def parse(self) -> bool:
        received = self.received
        if self.step == "greeting" and len(received) >= 2 and len(received) >= 2 + received[1]:
            methods = self.take(2 + received[1])[2:]
            wanted = 0 if self.proxy.login is None else 2
            if wanted in methods:
                self.transport.write(bytes([5, wanted]))
                self.step = "login" if wanted else "request"
                if not wanted:
                    self.proxy.logins.append(None)
                return True
            self.transport.write(b"\x05\xff")
            self.transport.loseConnection()
        elif self.step == "login" and len(received) >= 2 and len(received) >= 3 + received[1]:
            size = 2 + received[1]
            if len(received) >= size + 1 + received[size]:
                name, password = received[2:size], received[size + 1 : size + 1 + received[size]]
                self.take(size + 1 + received[size])
                login = name.decode(), password.decode()
                self.proxy.logins.append(login)
                self.transport.write(bytes([1, login != self.proxy.login]))
                self.step = "request"
                return login == self.proxy.login
        elif self.step == "request" and len(received) >= 5:
            assert received[:3] == b"\x05\x01\x00"
            size = {1: 4, 3: 1 + received[4], 4: 16}[received[3]]
            if len(received) >= 4 + size + 2:
                address = self.take(4 + size + 2)[4:]
                host = address[1:-2].decode() if received[3] == 3 else str(ipaddress.ip_address(address[:-2]))
                self.connect(host, int.from_bytes(address[-2:], "big"))
        return False

    def reply(self, refusal: tuple[int, int] | None) -> None:
        self.transport.write(bytes([5, refusal[0] if refusal else 0, 0, 1]) + bytes(6))


class _Connect(_Client):
    def parse(self) -> bool:
        head, end, self.received = self.received.partition(b"\r\n\r\n")
        if not end:
            self.received = head
            return False
        line, *fields = head.decode().split("\r\n")
        method, authority, version = line.split(" ")
        assert (method, version, fields[0]) == ("CONNECT", "HTTP/1.1", f"Host: {authority}")
        login = None
        for field in fields[1:]:
            assert field.startswith("Proxy-Authorization: Basic "), field
            name, _, password = b64decode(field.rpartition(" ")[2]).decode().partition(":")
            login = name, password
        self.proxy.logins.append(login)
        host, _, port = authority.rpartition(":")
        if self.proxy.login in (None, login):
            self.connect(host.strip("[]"), int(port))
        else:
            self.refuse((0, 407))
        return False

    def reply(self, refusal: tuple[int, int] | None) -> None:
        status = refusal[1] if refusal else 200
        self.transport.write(b"HTTP/1.1 %d whatever\r\nContent-Length: 0\r\n\r\n" % status)
