"""``ccmproxy token``."""

from __future__ import annotations

import textwrap

from ccmproxy.config import load_text
from ccmproxy.surfaces.cli.make_token import TOKEN_SIZE
from ccmproxy.surfaces.cli.terminal import Terminal
from tests.surfaces.cli.commanding import CommandTestCase


class TokenTests(CommandTestCase):
    """ccmproxy token"""

    def test_lines_are_configuration(self) -> None:
        for name in ("bob", "NAME", 'Bob O\'Neil: "x"', "true", "5", "ü"):
            code, out, err = self.run_command("token", name)
            self.assertEqual((code, err), (0, ""))
            config = load_text(
                "services:\n- type: ccm\n  users:\n" + textwrap.indent(out, "  "), "x", environ={}, home="/h"
            )
            (user,) = config.services[0].users
            self.assertEqual((user.name, user.token.get_secret_value()), (name, "random-32"))

    def test_without_a_name(self) -> None:
        self.assertIn('- name: "NAME"\n', self.run_command("token")[1])

    def test_not_a_name(self) -> None:
        for name in ("", " ", "a\nb"):
            self.assertEqual(self.run_command("token", name)[:2], (1, ""))

    def test_is_random(self) -> None:
        tokens = {Terminal().make_token(TOKEN_SIZE) for _ in range(3)}
        self.assertEqual({len(token) for token in tokens}, {43})  # 256 bits in base64
        self.assertEqual(len(tokens), 3)
