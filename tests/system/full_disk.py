"""Run by tests in a separate mount namespace: keeps logins on small file systems that are full or read-only for a time.

Prints one line of JSON, a list of facts of each login (see :class:`Trouble`), or else a line of text that says why
there is no result.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from ccmproxy.credentials.control import TIMEOUT, Answer
from ccmproxy.credentials.login.file import FileStore
from ccmproxy.credentials.login.token import TokenKeeper
from ccmproxy.dialects.oauth import ControlRequest, OAuthToken
from tests.credentials.fixtures import URLS, PlainFormat, login

#: Seconds after which the cause ends. The attempt after it is made within 10 s.
LASTS = 3.0


class Trouble:
    """One login on a file system of 64 KiB. ``name``: what is wrong with it, and when.

    Its facts: ``meanwhile``, the access token that served while the trouble lasted; ``problem``, why the refresh was
    put off; ``healed_after``, seconds after the end of the cause until the new login was in the file, None if it never
    was; ``redeemed``, how many refresh tokens were redeemed; ``folder``, what was in the folder at the end.
    """

    def __init__(self, reactor: Any, name: str, folder: str) -> None:
        self.name = name
        self._reactor = reactor
        self._folder = folder
        self._path = os.path.join(folder, "login.json")
        self._junk = os.path.join(folder, "junk")
        self._redeemed = 0
        self._expires = reactor.seconds() + 30

    async def run(self) -> dict[str, Any]:
        """Let it happen, and return the facts."""
        self._write()
        keeper = TokenKeeper(
            self.name,
            FileStore(self._path),
            PlainFormat(),
            URLS,
            self._fetch,
            self._reactor,
            now=self._reactor.seconds,
        )
        keeper.load()
        if self.name != "full at the save":
            self._begin()
        present = await keeper.authorize()
        assert isinstance(present, OAuthToken)
        problem, _ = keeper.delay() or ("", 0.0)
        await deferLater(self._reactor, LASTS)
        self._end()
        healed_after = await self._healed()
        await keeper.stop()
        return {
            "name": self.name,
            "meanwhile": present.access_token,
            "problem": problem,
            "healed_after": healed_after,
            "redeemed": self._redeemed,
            "folder": os.listdir(self._folder),
        }

    def _write(self) -> None:
        with open(self._path, "wb") as file:
            file.write(login(expires=self._expires))

    def _stored(self) -> str:
        with open(self._path, "rb") as file:
            access: str = json.load(file)["login"]["access"]
        return access

    async def _fetch(self, request: ControlRequest, within: float = TIMEOUT) -> Answer:
        self._redeemed += 1
        if self.name == "full at the save":
            self._begin()
        new = {"access": "a2", "refresh": "r2", "expires": self._expires + 3600}
        return Answer(200, {}, json.dumps(new).encode())

    def _begin(self) -> None:
        if self.name == "read-only":
            mount("-o", "remount,ro", self._folder)
            return
        with open(self._junk, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(b"\0" * 1024)
            except OSError:
                pass

    def _end(self) -> None:
        if self.name == "read-only":
            mount("-o", "remount,rw", self._folder)
        else:
            os.unlink(self._junk)

    async def _healed(self) -> float | None:
        begin = self._reactor.seconds()
        while self._reactor.seconds() - begin < 20:
            if self._stored() == "a2":
                return float(self._reactor.seconds() - begin)
            await deferLater(self._reactor, 0.05)
        return None


def mount(*arguments: str) -> str:
    """Run mount(8), and return its error output."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    return done.stderr.strip() or ("" if done.returncode == 0 else "failed")


async def run(reactor: Any, directory: str) -> None:
    """Let all troubles happen side by side."""
    troubles = []
    for number, name in enumerate(("full", "full at the save", "read-only")):
        folder = os.path.join(directory, str(number))
        os.mkdir(folder)
        problem = mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", folder)
        if problem:
            print(f"mount: {problem}")
            return
        troubles.append(Trouble(reactor, name, folder))
    facts = await gatherResults([Deferred.fromCoroutine(each.run()) for each in troubles])
    print(json.dumps(facts))


if __name__ == "__main__":
    react(lambda reactor: Deferred.fromCoroutine(run(reactor, sys.argv[1])))
