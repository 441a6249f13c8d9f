"""Every dialect is complete: it has all facets, and consistent names."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.dialects.catalog import DIALECTS
from ccmproxy.interfaces.facets import IAccountFormat, IMetering, ITraffic


class DialectTests(SynchronousTestCase):
    """What holds for each of them."""

    def test_facets(self) -> None:
        for dialect in DIALECTS.values():
            self.assertTrue(verifyObject(ITraffic, dialect.traffic))
            self.assertTrue(verifyObject(IMetering, dialect.metering))
            self.assertTrue(verifyObject(IAccountFormat, dialect.account))

    def test_names(self) -> None:
        for kind, dialect in DIALECTS.items():
            self.assertEqual(dialect.service_type, kind)
            self.assertEqual(dialect.path_prefix, f"/{kind}/v1/".encode())
            self.assertEqual(dialect.request_id_header, f"X-{kind.upper()}-Request-Id".encode())

    def test_asks_in_its_own_name(self) -> None:
        for dialect in DIALECTS.values():
            self.assertTrue(dialect.urls.user_agent.startswith("ccmproxy/"))
            for url in (dialect.urls.api_url, dialect.urls.token_url, dialect.urls.usage_url):
                self.assertTrue(url.startswith("https://"), url)
