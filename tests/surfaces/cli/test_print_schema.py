"""``ccmproxy schema``."""

from __future__ import annotations

import json

from ccmproxy.config import json_schema
from ccmproxy.config.reference import markdown
from tests.surfaces.cli.commanding import CommandTestCase


class SchemaTests(CommandTestCase):
    """ccmproxy schema"""

    def test_json(self) -> None:
        code, out, err = self.run_command("schema")
        self.assertEqual((code, json.loads(out), err), (0, json_schema(), ""))

    def test_markdown(self) -> None:
        self.assertEqual(self.run_command("schema", "--markdown")[1].strip(), markdown().strip())
