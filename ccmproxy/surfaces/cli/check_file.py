"""``ccmproxy check``: checks a configuration file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from ccmproxy.config import Config, ConfigurationError, ServiceConfig, load, readable_by_others
from ccmproxy.surfaces.cli.terminal import Commands, Terminal


def add_command(commands: Commands) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "check", help="check a configuration file", description="Check a configuration file."
    )
    parser.add_argument("file", metavar="FILE")
    parser.set_defaults(command=run)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy check FILE``: print all problems, or a summary."""
    try:
        config = load(args.file, environ=terminal.environ)
    except ConfigurationError as error:
        for problem in error.problems:
            terminal.complain(str(problem))
        return 1
    terminal.say(f"{args.file}: ok")
    for service in config.services:
        terminal.say(f"  {describe_service(service)}")
    for warning in warnings(config):
        terminal.complain(f"warning: {warning}")
    return 0


def describe_service(service: ServiceConfig) -> str:
    """A one-line summary for people: type, address, credentials and users."""
    tags = [each.tag for each in service.credentials]
    tags += [each.tag for each in service.externals]
    tags += [each.tag for each in service.pools]
    noun = "credential" if len(tags) == 1 else "credentials"
    users = ", ".join(user.name for user in service.users)
    who = f"users {users}" if users else "no users: everybody who reaches this address may use it"
    return f"{service.type} on {service.address}: {noun} {', '.join(tags)}; {who}"


def warnings(config: Config) -> Iterator[str]:
    """Warnings about a configuration that is valid, but not safe."""
    for path in readable_by_others(config):
        yield f"{path} can be read by every user of this machine: chmod 600 it"
