"""``ccmproxy demo``: runs the proxy in front of a simulated upstream."""

from __future__ import annotations

import argparse

from ccmproxy.surfaces.cli.terminal import Commands, Terminal


def add_command(commands: Commands, is_meant: bool) -> None:
    """Add the parser of the command.

    ``is_meant``: whether this command was given; only then are its modules loaded and its options added.
    """
    parser = commands.add_parser(
        "demo",
        help="run everything against a simulated upstream",
        description="Run the proxy against a simulator.",
    )
    parser.set_defaults(command=run)
    if is_meant:
        from ccmproxy.demo.show import add_arguments

        add_arguments(parser)


def run(args: argparse.Namespace, terminal: Terminal) -> int:
    """``ccmproxy demo``: see :mod:`ccmproxy.demo.show`."""
    from ccmproxy.demo.show import run as run_demo

    return run_demo(args)
