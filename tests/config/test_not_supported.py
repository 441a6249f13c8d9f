"""Unsupported features are refused, and nothing else is."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config.not_supported import NOT_SUPPORTED, is_supported
from tests.config.checking import found

#: Path in the table (and value) → a use of it, → uses that mean nothing. A feature that gets built loses its line.
USES: dict[tuple[str, str | bool | None], tuple[str, list[str]]] = {
    ("services[].credentials[].type", "external"): (
        "services: [{type: ccm, credentials: [{tag: a, type: external, token: t}]}]",
        [],
    ),
    ("services[].credentials[].type", "balancer"): (
        "services: [{type: ccm, credentials: [{tag: a}, {tag: p, type: balancer, credentials: a}]}]",
        [],
    ),
    ("services[].users[].external_credential", None): (
        "services: [{type: ccm, credentials: [{tag: a}, {tag: e, type: external, token: t}],"
        " users: [{name: u, token: x, credential: a, external_credential: e}]}]",
        ["services: [{type: ccm, users: [{name: u, token: t, external_credential: ''}]}]"],
    ),
    ("services[].users[].allow_external_usage", None): (
        "services: [{type: ccm, users: [{name: u, token: t, allow_external_usage: true}]}]",
        ["services: [{type: ccm, users: [{name: u, token: t, allow_external_usage: false}]}]"],
    ),
    ("services[].tls", None): (
        "services: [{type: ccm, tls: {certificate_path: a, key_path: b}}]",
        ["services: [{type: ccm, tls: {}}]", "services: [{type: ccm, tls: {enabled: false, key_path: a}}]"],
    ),
    ("services[].usages_path", None): (
        "services: [{type: ccm, usages_path: a}]",
        ["services: [{type: ccm, usages_path: ''}]"],
    ),
    ("services[].credentials[].usages_path", None): (
        "services: [{type: ccm, credentials: [{tag: a, usages_path: a}]}]",
        ["services: [{type: ccm, credentials: [{tag: a, usages_path: ''}]}]"],
    ),
    ("prices", None): (
        "{services: [{type: ccm}], prices: {m: {input: 1, output: 2}}}",
        ["{services: [{type: ccm}], prices: {}}"],
    ),
    ("services[].trusted_proxies", None): (
        "services: [{type: ccm, trusted_proxies: [10.0.0.0/8]}]",
        ["services: [{type: ccm, trusted_proxies: []}]"],
    ),
    ("services[].max_connections_per_user", None): (
        "services: [{type: ccm, max_connections_per_user: 5}]",
        ["services: [{type: ccm, max_connections_per_user: }]"],
    ),
}


class NotSupportedTests(SynchronousTestCase):
    """Every line of the table."""

    def test_every_line_is_used_here(self) -> None:
        self.assertEqual(
            [(each.path, each.value) for each in NOT_SUPPORTED if (each.path, each.value) not in USES], []
        )

    def test_refused(self) -> None:
        for feature in NOT_SUPPORTED:
            use, _ = USES[feature.path, feature.value]
            problems = found(use)
            self.assertTrue(all(p.message.endswith("not supported yet") for p in problems), problems)
            option = feature.path.rpartition(".")[2]
            said = f"{feature.value} is not supported yet" if feature.value else "is not supported yet"
            self.assertIn((option, said), [(p.path.rpartition(".")[2], p.message) for p in problems])

    def test_not_given(self) -> None:
        for _, harmless in USES.values():
            for use in harmless:
                self.assertEqual(found(use), ())

    def test_after_the_checks(self) -> None:
        messages = {
            problem.message for problem in found("services: [{type: ccm, usages_path: u, listen_port: -1}]")
        }
        self.assertEqual(messages, {"is not supported yet", "must be at least 0, is -1"})

    def test_is_supported(self) -> None:
        self.assertTrue(is_supported("services[].type", "ccm"))
        self.assertEqual(
            is_supported("services[].type", "ocm"),
            ("services[].type", "ocm") not in {(f.path, f.value) for f in NOT_SUPPORTED},
        )
