"""Fields of one account, and their replacement."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.account_fields import replace_account_fields
from ccmproxy.http.message import Headers


class ReplaceTests(SynchronousTestCase):
    """Spec 8.3."""

    def test_what_tells_of_the_account_goes(self) -> None:
        headers: Headers = [
            (b"Content-Type", b"text/plain"),
            (b"X-Account-Left", b"5"),
            (b"Connection", b"close"),
            (b"x-request-id", b"r"),
        ]
        asked: list[bytes] = []

        def tells_of_account(name: bytes) -> bool:
            asked.append(name)
            return name.startswith(b"x-account-")

        seen = replace_account_fields(headers, tells_of_account, [(b"X-Account-Left", b"50")])
        self.assertEqual(
            seen, [(b"Content-Type", b"text/plain"), (b"x-request-id", b"r"), (b"X-Account-Left", b"50")]
        )
        self.assertEqual(asked, [b"content-type", b"x-account-left", b"x-request-id"])
        self.assertEqual(replace_account_fields(headers, lambda name: True, []), [])

    def test_what_only_we_may_say(self) -> None:
        """Spec 14: an upstream's own fields of that name are not relayed, in any dialect."""
        theirs: Headers = [
            (b"X-CCM-Error", b"credential_unavailable"),
            (b"x-ocm-Plan-Weight", b"1000"),
            (b"X-Ccm-Reset-At", b"4000000000"),
            (b"X-OCM-Anything", b"1"),
            (b"X-CCMPROXY", b"2"),
        ]
        ours: Headers = [(b"X-CCM-Plan-Weight", b"10")]
        seen = replace_account_fields(theirs, lambda name: False, ours)
        self.assertEqual(seen, [(b"X-CCMPROXY", b"2"), *ours])
