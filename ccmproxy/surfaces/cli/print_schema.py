"""``ccmproxy schema``: prints the format of a configuration file."""

from __future__ import annotations

import argparse
import json

from ccmproxy.config import json_schema
from ccmproxy.config.reference import markdown
from ccmproxy.surfaces.cli.terminal import Commands, Terminal


def add_command(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "schema",
        help="print a JSON schema of the configuration, for editors",
        description="Print a JSON schema of the configuration file.",
    )
    parser.add_argument("--markdown", action="store_true", help="print the reference of all options instead")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy schema``: print the JSON schema, or the reference in Markdown."""
    terminal.say(
        markdown().rstrip() if args.markdown else json.dumps(json_schema(), indent=2, ensure_ascii=False)
    )
    return 0
