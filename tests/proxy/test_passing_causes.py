"""A login that cannot be used for a while because of the machine, as seen by clients (spec 12.4, F66)."""

from __future__ import annotations

import errno
import json
import math
import os

from twisted.trial.unittest import SynchronousTestCase

from tests.conversation import Response, World
from tests.credentials.login.machine import Cause, Machine
from tests.pooled import PoolWorld
from tests.proxy.test_codex import CodexWorld, only, request

DISK_FULL = Cause("create", errno.ENOSPC)
NO_DESCRIPTORS = Cause("open_to_read", errno.EMFILE)


class PassingCase(SynchronousTestCase):
    """A machine whose functions fail when a test wants."""

    def setUp(self) -> None:
        self.machine = Machine(self, os.path.abspath(f"{self.mktemp()}/../.."))

    def assert_delayed(self, response: Response, *words: str) -> None:
        """Check for a 503 with a Retry-After that both clients wait for (up to 60 s, observed)."""
        self.assertEqual((response.status, response.header("x-ccm-error")), (503, "credential_delayed"))
        self.assertIn(int(response.header("retry-after") or 0), range(1, 61))
        self.assertIsNone(response.header("x-should-retry"))
        for word in words:
            self.assertIn(word, response.error["message"])

    def status(self, world: World) -> dict[str, object]:
        """The availability that the status endpoint shows."""
        availability = world.get(f"/{'ocm' if isinstance(world, CodexWorld) else 'ccm'}/v1/status").json()
        found: dict[str, object] = availability["availability"]
        return found


class AnswerTests(PassingCase):
    """What a client is told, until the cause is gone."""

    def test_claude(self) -> None:
        world = World(self)
        world.expire_login()
        self.machine.causes = {DISK_FULL}
        response = world.answer()
        self.assert_delayed(response, "No space left on device", "next try in 5s")
        self.assertEqual((response.json()["type"], response.error["type"]), ("error", "api_error"))
        self.assertNotIn("/", response.error["message"])
        status = self.status(world)
        self.assertEqual(status["state"], "temporarily_blocked")
        self.assertEqual(status["reset_at"], math.ceil(world.clock.seconds() + 5))
        self.assertIn("its credential file", response.error["message"])
        self.assertIn(
            f"credential file {os.path.abspath(world.path)} cannot be written: No space left", world.logged()
        )
        self.machine.causes.clear()
        world.network.advance(60)
        self.assertEqual(world.answer().status, 200)

    def test_codex(self) -> None:
        world = CodexWorld(self)
        world.codex.expire_access_token()
        world.write_auth()
        world.see_files()
        self.machine.causes = {DISK_FULL}
        response = only(world.send(request("hello")))
        self.assert_delayed(response, "No space left on device")
        self.assertEqual(set(response.json()), {"error"})
        self.assertNotIn("/", response.error["message"])
        self.machine.causes.clear()
        world.network.advance(60)
        self.assertEqual(only(world.send(request("hello"))).status, 200)

    def test_not_read_at_the_start(self) -> None:
        world = World(self, start=False)
        self.machine.causes = {NO_DESCRIPTORS}
        world.start()
        self.assert_delayed(world.answer(), "its credential file cannot be read: Too many open files")
        self.assertEqual(self.status(world)["state"], "unavailable")
        world.network.advance(3)
        self.assertTrue(self.status(world)["reset_at"])
        self.machine.causes.clear()
        world.network.advance(60)
        self.assertEqual(self.status(world)["state"], "usable")
        self.assertEqual(world.answer().status, 200)

    def test_beside_an_account_that_is_used_up(self) -> None:
        """Nobody is told to come back in hours where the other account is back within a minute."""
        world = PoolWorld(self)
        world.logins[0].exhaust("seven_day")
        world.logins[1].expire_access_token()
        world.write_login(world.logins[1])
        self.machine.causes = {DISK_FULL}
        world.see_files()
        self.assert_delayed(world.answer(), "No space left on device")
        self.machine.causes.clear()
        world.network.advance(60)
        self.assertEqual(world.answer().status, 200)

    def test_not_read_at_the_start_beside_an_account_that_is_used_up(self) -> None:
        world = PoolWorld(self, start=False)
        world.logins[0].exhaust("seven_day")
        self.machine.causes = {NO_DESCRIPTORS}
        self.machine.place = os.path.abspath(world.paths[1])
        world.start()
        self.assert_delayed(world.answer(), "Too many open files")

    def test_missing_files_are_no_passing_cause(self) -> None:
        """Somebody has to log in, so that waiting does not help."""
        world = World(self, with_file=False)
        response = world.answer()
        self.assertEqual((response.status, response.header("retry-after")), (400, None))
        self.assertEqual(self.status(world)["reset_at"], 0)


class PathTests(PassingCase):
    """Clients are told what is wrong with which credential; only the log says in which place."""

    def assert_no_path(self, world: World, *words: str) -> None:
        client = world.ask()
        world.until(lambda: bool(client.responses()), 60)
        (response,) = client.responses()
        self.assertGreaterEqual(response.status, 400)
        self.assertIn("credential default is unavailable: ", response.error["message"])
        for word in words:
            self.assertIn(word, response.error["message"])
            self.assertIn(word, world.logged())
        status = world.get("/ccm/v1/status")
        for shown in (
            response.body.decode(),
            json.dumps(response.headers, default=str),
            status.body.decode(),
        ):
            self.assertNotIn(os.path.dirname(world.path), shown)
            self.assertNotIn(os.path.basename(world.path), shown)
        self.assertIn(os.path.basename(world.path), world.logged())
        world.close()

    def test_every_defect_of_a_file(self) -> None:
        for content, word in (
            (None, "does not exist"),
            (b"", "is empty"),
            (b"\xff\xff", "is not UTF-8 text"),
            (b"x" * (1024 * 1024 + 1), "is larger than"),
        ):
            world = World(self, with_file=False)
            if content is not None:
                with open(world.path, "wb") as file:
                    file.write(content)
                world.see_files()
            self.assert_no_path(world, word)
        world = World(self, with_file=False)
        os.mkdir(world.path)
        world.see_files()
        self.assert_no_path(world, "is a directory")
        world = World(self, with_file=False)
        os.mkfifo(world.path)
        world.see_files()
        self.assert_no_path(world, "is not a regular file")

    def test_every_function_of_the_system(self) -> None:
        for what in ("open_to_read", "open_to_write", "create", "write", "fsync", "replace", "mkdir"):
            world = World(self)
            world.expire_login()
            self.machine.causes = {Cause(what, errno.EIO)}
            self.assert_no_path(world, os.strerror(errno.EIO))
            self.machine.causes.clear()

    def test_the_lock(self) -> None:
        world = World(self)
        world.expire_login()
        lock = os.path.realpath(os.path.dirname(world.path)) + ".lock"
        os.mkdir(lock)
        self.addCleanup(os.rmdir, lock)
        os.utime(lock, (world.clock.seconds() + 100,) * 2)
        self.machine.causes.clear()
        client = world.ask()
        for _ in range(20):
            world.network.advance(1)
            os.utime(lock, (world.clock.seconds(),) * 2)
        self.assert_delayed(client.responses()[0], "its lock is held by another program")
        self.assertNotIn("/", client.responses()[0].error["message"])
        self.assertIn(f"lock {lock} is held by another program", world.logged())
