"""TLS session resumption."""

from __future__ import annotations

import ssl

from twisted.internet.ssl import TLSVersion
from twisted.trial.unittest import SynchronousTestCase

from tests.transports.tls_scene import HOST, PORT, Scene


class SessionTests(SynchronousTestCase):
    """Handshakes resume the session of an earlier connection to the same origin."""

    def resumed(self, scene: Scene) -> list[bool]:
        """Three connections, one after the other, each with a byte of data."""
        found = []
        for _ in range(3):
            client, server = scene.connected()
            server.transport.write(b"x")
            scene.settle()
            self.assertEqual(client.received, b"x")
            found.append(client.transport.session_reused)
            client.transport.loseConnection()
            scene.settle()
        return found

    def test_resumed(self) -> None:
        self.assertEqual(self.resumed(Scene(self)), [False, True, True])

    def test_resumed_tls_12(self) -> None:
        self.assertEqual(self.resumed(Scene(self, newest=TLSVersion.TLSv1_2)), [False, True, True])

    def test_other_origin(self) -> None:
        """A session is good for the name that was verified, and for no other."""
        scene = Scene(self, names=(HOST, "other.test"))
        _, server = scene.connected()
        server.transport.write(b"x")
        scene.settle()
        other, _ = scene.connected("other.test")
        self.assertFalse(other.transport.session_reused)
        again, _ = scene.connected()
        self.assertTrue(again.transport.session_reused)

    def test_server_forgot(self) -> None:
        """A server that does not know the session does a full handshake."""
        scene = Scene(self)
        self.resumed(scene)
        scene.serve(scene.authority.server_options(HOST))
        self.assertEqual(self.resumed(scene), [False, True, True])

    def test_forgotten_after_a_failure(self) -> None:
        """A session is forgotten when the handshake with it failed: it may be the reason."""
        scene = Scene(self)
        self.resumed(scene)
        self.assertIsNotNone(scene.tls.sessions.get((HOST, PORT)))
        scene.serve(scene.authority.server_options("other.test"))
        result = scene.connect()
        scene.settle()
        self.failureResultOf(result, ssl.SSLCertVerificationError)
        self.assertIsNone(scene.tls.sessions.get((HOST, PORT)))

    def test_bounded(self) -> None:
        scene = Scene(self)
        _, server = scene.connected()
        server.transport.write(b"x")
        scene.settle()
        session = scene.tls.sessions.get((HOST, PORT))
        assert session is not None
        for port in range(1000):
            scene.tls.sessions.remember(("many.test", port), session)
        self.assertEqual(len(scene.tls.sessions), 256)
        self.assertIsNotNone(scene.tls.sessions.get(("many.test", 999)))
