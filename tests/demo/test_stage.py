"""The demo before any request: its addresses, its files, its instructions."""

from __future__ import annotations

import stat
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.config import load_text
from ccmproxy.demo.stage import ALICE, BOB, CAROL, CONFIGURATION, DAVE, LENT, Demo


class StageTests(SynchronousTestCase):
    """Built, and not started."""

    def demo(self, port: int | None = 18080) -> Demo:
        """One in a directory of its own."""
        directory = Path(self.mktemp())
        directory.mkdir()
        return Demo(Clock(), directory, port)

    def test_ports(self) -> None:
        demo = self.demo()
        self.assertEqual((demo.port, demo.codex_port, demo.neighbour_port), (18080, 18081, 18082))
        free = self.demo(None)
        # Chosen at the start, after the simulator has its own (tests/demo/test_show.py).
        self.assertEqual((free.port, free.codex_port, free.neighbour_port), (0, 0, 0))

    def test_the_invitation_names_what_there_is(self) -> None:
        demo = self.demo()
        invitation = demo.invitation()
        for word in (f"{demo.url}/v1/messages", f"{demo.url}/ccm/v1/status", ALICE, BOB, CAROL, DAVE):
            self.assertIn(word, invitation)
        for port in (demo.codex_port, demo.neighbour_port):
            self.assertIn(str(port), invitation)

    def test_the_configuration_is_one(self) -> None:
        """Each user's token is known, each account has its file, nothing listens beyond this machine."""
        text = CONFIGURATION.format(
            port=1, codex_port=2, neighbour_port=3, directory="/d", upstream="http://127.0.0.1:4",
            alice=ALICE, bob=BOB, carol=CAROL, dave=DAVE, lent=LENT,
        )  # fmt: skip
        config = load_text(text, "demo")
        self.assertEqual({service.listen for service in config.services}, {"127.0.0.1"})
        tokens = {user.token.get_secret_value() for service in config.services for user in service.users}
        self.assertEqual(tokens, {ALICE, BOB, CAROL, DAVE, LENT})
        self.assertEqual(
            {each.credential_path for service in config.services for each in service.credentials},
            {"/d/main.json", "/d/spent.json", "/d/small.json", "/d/codex.json"},
        )

    def test_logins_are_for_nobody_else(self) -> None:
        demo = self.demo()
        demo._write("main", demo.main.credentials_document())
        (path,) = demo._directory.iterdir()
        self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        self.assertEqual(path.read_bytes(), demo.main.credentials_document())

    def test_stopped_before_it_began(self) -> None:
        demo = self.demo()
        self.assertIsNone(self.successResultOf(demo.end()))
        self.assertIsNone(self.successResultOf(demo.end()))
