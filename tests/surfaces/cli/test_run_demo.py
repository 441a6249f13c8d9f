"""``ccmproxy demo``."""

from __future__ import annotations

from ccmproxy.demo import show as demo
from tests.surfaces.cli.commanding import CommandTestCase


class DemoTests(CommandTestCase):
    """Its options, and what it does, are the demo's own."""

    def test_demo(self) -> None:
        self.patch(demo, "add_arguments", lambda parser: parser.add_argument("--speed", type=int))
        self.patch(demo, "run", lambda args: args.speed)
        self.assertEqual(self.run_command("demo", "--speed", "5"), (5, "", ""))

    def test_demo_is_there(self) -> None:
        code, out, _ = self.usage("demo", "--help")
        self.assertEqual(code, 0)
        self.assertIn("usage: ccmproxy demo", out)
