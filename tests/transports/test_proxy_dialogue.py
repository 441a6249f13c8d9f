"""The message of a proxy's failure, and the repr of a login, which hides the password."""

from __future__ import annotations

from twisted.internet.error import ConnectError
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.transports.proxy_dialogue import Login, ProxyError


class HandshakeTests(SynchronousTestCase):
    """The values that both kinds of proxy share."""

    def test_error(self) -> None:
        error = ProxyError("the proxy is out for lunch")
        self.assertIsInstance(error, ConnectError)
        self.assertEqual(Failure(error).getErrorMessage(), "the proxy is out for lunch")

    def test_login_hides_the_password(self) -> None:
        self.assertNotIn("s3cr3t", repr(Login("me", "s3cr3t")))
