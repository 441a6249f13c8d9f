"""The upgrade by which a connection becomes a reverse one (spec 7.2)."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.framing import split_head
from ccmproxy.http.message import Headers, RequestHead, ResponseHead, values
from ccmproxy.reverse.upgrading import SWITCHING_PROTOCOLS, asking, problem_of_answer, problem_of_asking

UPGRADE: Headers = [(b"Connection", b"Upgrade"), (b"Upgrade", b"reverse-proxy")]

#: Fields that ask for the protocol.
RIGHT: dict[str, Headers] = {
    "as we say it": UPGRADE,
    "lower case": [(b"connection", b"upgrade"), (b"upgrade", b"reverse-proxy")],
    "upper case": [(b"CONNECTION", b"UPGRADE"), (b"UPGRADE", b"REVERSE-PROXY")],
    "among others": [(b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"reverse-proxy")],
    "without spaces": [(b"Connection", b"keep-alive,upgrade,x"), (b"Upgrade", b"reverse-proxy")],
    "in a second field": [
        (b"Connection", b"keep-alive"),
        (b"Connection", b"Upgrade"),
        (b"Upgrade", b"reverse-proxy"),
    ],
    "empty elements": [(b"Connection", b", Upgrade ,"), (b"Upgrade", b" reverse-proxy ")],
    "an empty second field": [*UPGRADE, (b"Upgrade", b"")],
    "twice the same option": [(b"Connection", b"Upgrade, upgrade"), (b"Upgrade", b"reverse-proxy")],
}
#: Fields that do not ask for it.
WRONG: dict[str, Headers] = {
    "none": [],
    "no Upgrade": [(b"Connection", b"Upgrade")],
    "no Connection": [(b"Upgrade", b"reverse-proxy")],
    "empty": [(b"Connection", b""), (b"Upgrade", b"")],
    "another protocol": [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")],
    "another word": [(b"Connection", b"Upgrades"), (b"Upgrade", b"reverse-proxy")],
    "only a part": [(b"Connection", b"Upgrade"), (b"Upgrade", b"reverse")],
    "with a version": [(b"Connection", b"Upgrade"), (b"Upgrade", b"reverse-proxy/2")],
    "two protocols": [(b"Connection", b"Upgrade"), (b"Upgrade", b"reverse-proxy, websocket")],
    "the same twice": [(b"Connection", b"Upgrade"), (b"Upgrade", b"reverse-proxy, reverse-proxy")],
    "two fields": [*UPGRADE, (b"Upgrade", b"websocket")],
    "two equal fields": [*UPGRADE, (b"Upgrade", b"reverse-proxy")],
    "Connection says something else": [(b"Connection", b"close"), (b"Upgrade", b"reverse-proxy")],
    "the words in one": [(b"Connection", b"Upgrade reverse-proxy")],
}


class AskingTests(SynchronousTestCase):
    """The connector's request, and how the receiver checks it."""

    def test_what_we_ask_for(self) -> None:
        head = asking(b"friend.test:8080", b"/team/ccm/v1/reverse", "tøken", "ccmproxy/1")
        self.assertEqual((head.method, head.target), (b"GET", b"/team/ccm/v1/reverse"))
        self.assertEqual(values(head.headers, b"host"), [b"friend.test:8080"])
        self.assertEqual(values(head.headers, b"authorization"), ["Bearer tøken".encode()])
        self.assertEqual(values(head.headers, b"user-agent"), [b"ccmproxy/1"])
        self.assertIsNone(problem_of_asking(head, True))

    def test_fields(self) -> None:
        for name, headers in RIGHT.items():
            self.assertIsNone(problem_of_asking(RequestHead(b"GET", b"/", headers), True), name)
        for name, headers in WRONG.items():
            problem = problem_of_asking(RequestHead(b"GET", b"/", headers), True)
            self.assertIn("Upgrade: reverse-proxy", problem or "", name)

    def test_methods(self) -> None:
        for method in (b"POST", b"HEAD", b"CONNECT", b"get", b"OPTIONS", b""):
            problem = problem_of_asking(RequestHead(method, b"/", UPGRADE), True)
            self.assertEqual(problem, "a reverse connection is asked for with GET", method)

    def test_versions(self) -> None:
        """HTTP/1.0 has no upgrades, and HTTP/2 does it differently."""
        problem = problem_of_asking(RequestHead(b"GET", b"/", UPGRADE), False)
        self.assertEqual(problem, "a reverse connection needs HTTP/1.1")

    def test_bodies(self) -> None:
        """A body is refused even if all of it has already arrived."""
        for field, expected in (
            ((b"Content-Length", b"0"), None),
            ((b"content-length", b" 0 "), None),
            ((b"Content-Length", b"5"), "a handshake has no body"),
            ((b"Transfer-Encoding", b"chunked"), "a handshake has no body"),
        ):
            self.assertEqual(problem_of_asking(RequestHead(b"GET", b"/", [*UPGRADE, field]), True), expected)


class AnswerTests(SynchronousTestCase):
    """The receiver's response, and how the connector checks it."""

    def test_what_we_answer(self) -> None:
        status_line, headers = split_head(SWITCHING_PROTOCOLS)
        self.assertEqual(status_line, b"HTTP/1.1 101 Switching Protocols")
        self.assertEqual(headers, UPGRADE)
        self.assertIsNone(problem_of_answer(ResponseHead(101, b"Switching Protocols", headers)))

    def test_fields(self) -> None:
        for name, headers in RIGHT.items():
            self.assertIsNone(problem_of_answer(ResponseHead(101, b"", headers)), name)
        for name, headers in WRONG.items():
            problem = problem_of_answer(ResponseHead(101, b"", headers))
            self.assertEqual(problem, "the answer switches to something else", name)
