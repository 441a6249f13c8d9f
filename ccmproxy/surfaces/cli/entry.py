"""The command line as a whole: selects the command and returns its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from ccmproxy._version import __version__
from ccmproxy.surfaces.cli import check_file, make_token, print_schema, run_demo, show_status
from ccmproxy.surfaces.cli.terminal import CommandError, Terminal


def main(argv: Sequence[str] | None = None, terminal: Terminal | None = None) -> int:
    """Run the command in ``argv`` (default: that of the process) and return the exit status.

    Raises SystemExit for ``--help``, ``--version`` and wrong usage, as argparse does.
    """
    arguments = sys.argv[1:] if argv is None else list(argv)
    terminal = terminal or Terminal()
    try:
        args = _parser(arguments).parse_args(arguments)
        run: Callable[[argparse.Namespace, Terminal], int] = args.command
        return run(args, terminal)
    except CommandError as error:
        terminal.complain(f"ccmproxy: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output (head, less) has closed the pipe; leave nothing for the interpreter to flush at exit.
        if terminal.out is sys.stdout:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ccmproxy",
        description="One address for a team's Claude Code and Codex clients, over your own accounts.",
        epilog="The proxy itself is run with: twistd -n ccmproxy --config FILE",
    )
    parser.add_argument("--version", action="version", version=f"ccmproxy {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    check_file.add_command(commands)
    print_schema.add_command(commands)
    make_token.add_command(commands)
    show_status.add_command(commands)
    run_demo.add_command(commands, is_meant="demo" in arguments[:1])
    return parser
