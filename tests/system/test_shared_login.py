"""Processes that share one login file (F1)."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.credentials.fixtures import CredentialTestCase, login
from tests.source import ROOT

#: A whole other process that refreshes the login at argv[1], writing the refresh token it redeems to argv[2].
OTHER_PROCESS = """
import json, os, sys, time
from twisted.internet import reactor, task
from twisted.internet.defer import Deferred
from ccmproxy.credentials.control import Answer
from ccmproxy.credentials.login.lock import DirectoryLock, lock_path
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.token import TokenKeeper
from tests.credentials.fixtures import PlainFormat, URLS
path, redeemed = sys.argv[1:]
async def fetch(request):
    with open(redeemed, "a") as file:
        file.write(request.body.decode() + "\\n")
    await task.deferLater(reactor, 0.2)
    new = {"access": "n" + str(os.getpid()), "refresh": "r-next", "expires": 4e9}
    return Answer(200, {}, json.dumps(new).encode())
lock = DirectoryLock(lock_path(os.path.dirname(path)), reactor, lambda: 0.0, time.time)
keeper = TokenKeeper("x", FileStore(path), PlainFormat(), URLS, fetch, reactor, lock=lock, now=time.time)
keeper.load()
def main(reactor):
    return Deferred.fromCoroutine(keeper.authorize()).addCallback(lambda token: print(token.access_token))
task.react(main)
"""


class SharedLoginTests(CredentialTestCase):
    """Each refreshes its token when it has to."""

    def test_f1_real_processes(self) -> None:
        """Two processes meet the same expired login: one refresh token is redeemed, once, and both get its token."""
        self.put(login(expires=1000.0))
        redeemed = os.path.join(self.directory, "redeemed")
        root = str(ROOT)
        environment = {**os.environ, "PYTHONPATH": root}
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", OTHER_PROCESS, self.path, redeemed],
                stdout=subprocess.PIPE,
                env=environment,
            )
            for _ in range(2)
        ]
        outputs = {process.communicate(timeout=30)[0] for process in processes}
        with open(redeemed) as file:
            self.assertEqual(file.read(), "r1\n")
        self.assertEqual(outputs, {f"{self.stored()['access']}\n".encode()})
