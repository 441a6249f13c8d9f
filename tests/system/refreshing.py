"""Run by tests as a process of its own, which makes copies of itself that refresh a login until they are killed.

Arguments: the path of the login, the URL of the token endpoint. For each line of the standard input a process is
forked, and each prints lines of JSON: its ``pid``; then the ``refresh_token`` that it has read and what was in the
``folder`` then; at its end the ``problem``, if it had one. The line says what it does besides: ``read`` = nothing,
``once`` = it refreshes the login once, ``on`` = it refreshes it again and again. After it ``ended`` the next line is
read.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IStreamClientEndpoint
from zope.interface import implementer

from ccmproxy.credentials.control import ControlClient
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.lock import DirectoryLock, lock_path
from ccmproxy.credentials.login.token import TokenKeeper
from ccmproxy.dialects.claude.account_format import ClaudeAccountFormat
from ccmproxy.dialects.oauth import OAuthToken, UpstreamURLs
from ccmproxy.interfaces.credentials import CredentialUnavailable
from ccmproxy.interfaces.network import IOutbound

#: How long a slow disk takes before and after each step of a write (seconds), so that kills meet all of them.
SLOW = 0.002


@implementer(IOutbound)
class Loopback:
    """Makes connections without TLS, for which certificates would be read each time."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def endpoint(
        self, host: str, port: int, tls: bool, server_name: str | None = None
    ) -> IStreamClientEndpoint:
        """Return an endpoint for this address."""
        return TCP4ClientEndpoint(self._reactor, host, port)


def slow_disk() -> None:
    """Let every step of a write take a while."""

    def slowed(function: Any) -> Any:
        def slow(*arguments: Any) -> Any:
            time.sleep(SLOW)  # noqa: TID251 - it stands for the disk
            result = function(*arguments)
            time.sleep(SLOW)  # noqa: TID251 - it stands for the disk
            return result

        return slow

    for name in ("write", "fsync", "replace", "unlink"):
        setattr(os, name, slowed(getattr(os, name)))


async def use(path: str, token_url: str, reactor: Any, what: str) -> None:
    """Read the login and tell what it is, and refresh it as often as ``what`` says."""
    folder = os.path.dirname(path)
    keeper = TokenKeeper(
        "killed",
        FileStore(path),
        ClaudeAccountFormat(),
        UpstreamURLs("", token_url, "", "", "ccmproxy/test"),
        ControlClient(reactor, Loopback(reactor)).fetch,
        reactor,
        lock=DirectoryLock(lock_path(folder), reactor, lambda: 0.0, reactor.seconds),
        now=reactor.seconds,
    )
    tell(pid=os.getpid())
    keeper.load()
    read = keeper.authorization
    assert isinstance(read, OAuthToken), keeper.problem
    tell(refresh_token=read.refresh_token, folder=os.listdir(folder))
    while what != "read":
        try:
            await keeper.authorize()
        except CredentialUnavailable as error:
            tell(problem=str(error))
            return
        if what == "once":
            return


def run(reactor: Any, path: str, token_url: str, what: str) -> Deferred[None]:
    """Do what :func:`use` does."""
    return Deferred.fromCoroutine(use(path, token_url, reactor, what))


def tell(**facts: object) -> None:
    """Print a line of JSON."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Fork a process for each line of the standard input."""
    path, token_url = sys.argv[1:]
    slow_disk()
    for line in sys.stdin:
        what = line.strip()
        pid = os.fork()
        if not pid:
            # This imports the reactor, so that no two processes share the descriptors of one.
            task.react(run, (path, token_url, what))
        os.waitpid(pid, 0)
        tell(ended=True)


if __name__ == "__main__":
    main()
