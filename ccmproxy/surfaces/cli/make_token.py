"""``ccmproxy token``: makes a token for a user."""

from __future__ import annotations

import argparse
import json

from ccmproxy.surfaces.cli.terminal import CommandError, Commands, Terminal

#: Bytes of randomness in a token.
TOKEN_SIZE = 32


def add_command(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "token",
        help="make a token for a user",
        description="Make a token, and print the lines for the configuration.",
    )
    parser.add_argument("name", metavar="NAME", nargs="?", default="NAME", help="the user's name")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy token [NAME]``: print a new token as lines of YAML. Raises CommandError for an unprintable name."""
    if not args.name.strip() or not args.name.isprintable():
        raise CommandError("the name must be printable characters")
    token = terminal.make_token(TOKEN_SIZE)
    terminal.say('# under "users:" of a service; the user\'s client sends the token as ANTHROPIC_AUTH_TOKEN')
    terminal.say(f"- name: {json.dumps(args.name, ensure_ascii=False)}")
    terminal.say(f'  token: "{token}"')
    return 0
