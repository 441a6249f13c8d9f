"""Every dialect is complete: it has all facets, and consistent names."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from ccmproxy.dialects.catalog import DIALECTS
from ccmproxy.interfaces.facets import IAccountFormat, IMetering, ITraffic
from ccmproxy.policy.waits import waits


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

    def test_each_fact_about_waiting_clients_has_a_source(self) -> None:
        """Spec 12.2: clients that are known to wait; the official one of each dialect is among them."""
        for dialect in DIALECTS.values():
            self.assertTrue(dialect.waiting_clients)
            for client in dialect.waiting_clients:
                self.assertTrue(client.product and client.since, client)
                self.assertTrue(client.source.startswith("docs/clients/"), client)
        claude, codex = (DIALECTS[kind].waiting_clients for kind in ("ccm", "ocm"))
        self.assertTrue(waits(claude, "claude-cli/2.1.330 (external, sdk-cli)"))
        self.assertTrue(
            waits(codex, "codex_exec/0.169.0 (Debian 12.0.0; x86_64) xterm (codex_exec; 0.169.0)")
        )
        self.assertFalse(waits(claude, "claude-cli/2.0.77 (external, cli)"))
        self.assertFalse(waits(codex, "codex_exec/0.148.0"))
