"""A store and several processes: other users, daemons and limits, and a kill."""

from __future__ import annotations

import os
import shutil
import tempfile

from ccmproxy.interfaces.store import StoreFailed, StoreUnusable
from ccmproxy.store.sqlite_files import DaemonLock
from tests.store.samples import StoreTestCase, records
from tests.store.test_sqlite import count

#: Run in a child: inserts ten records, and says how that went.
INSERT = """
import sys
from ccmproxy.interfaces.store import StoreFailed, StoreUnusable
from ccmproxy.store.sqlite import SQLiteStore
from tests.store.samples import records
store = SQLiteStore(sys.argv[1])
{before}
try:
    store.open()
    print(store.insert(records(10)))
except (StoreFailed, StoreUnusable) as error:
    print(type(error).__name__, error)
"""
#: What a child does once it has imported everything, so that permissions mean something where root runs the tests.
AS_NOBODY = """
import os
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
"""


class PermissionTests(StoreTestCase):
    """What must not be written."""

    def setUp(self) -> None:
        super().setUp()
        # Not below a directory that another user cannot enter.
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        os.chmod(self.folder, 0o755)
        self.path = os.path.join(self.folder, "store.db")

    def test_a_file(self) -> None:
        self.fill()
        os.chmod(self.path, 0o444)
        printed = self.output(INSERT.format(before=AS_NOBODY), self.path)
        self.assertIn("StoreUnusable", printed)
        self.assertIn("must not be read and written", printed)
        os.chmod(self.path, 0o600)
        self.assertEqual(self.check(), ())

    def test_a_directory(self) -> None:
        os.chmod(self.folder, 0o555)
        self.addCleanup(os.chmod, self.folder, 0o755)
        printed = self.output(
            INSERT.format(before=AS_NOBODY), os.path.join(self.folder, "deeper", "store.db")
        )
        self.assertEqual(printed.split()[0], "StoreUnusable")
        self.assertIn("Permission denied", printed)

    def test_a_reader_of_what_it_may_only_read(self) -> None:
        self.fill()
        os.chmod(self.path, 0o444)
        os.chmod(self.folder, 0o777)
        program = (
            "import sys\n"
            "from ccmproxy.interfaces.store import Grouping\n"
            "from ccmproxy.store.sqlite_reports import SQLiteReader\n"
            "from tests.store.samples import question\n"
            f"SQLiteReader(sys.argv[1]).close()\n{AS_NOBODY}\n"
            "reader = SQLiteReader(sys.argv[1])\n"
            "print(reader.usage(question(Grouping.USER)).rows[0].requests)"
        )
        self.assertEqual(self.output(program, self.path), "3")


class ProcessTests(StoreTestCase):
    """Two daemons, limits of a process, and its end."""

    def test_two_daemons(self) -> None:
        self.store()
        printed = self.output(INSERT.format(before=""), self.path)
        self.assertIn("another ccmproxy has it", printed)

    def test_the_system_gives_it_up_with_the_process(self) -> None:
        child = self.child(
            "import sys, time\n"
            "from ccmproxy.store.sqlite_files import DaemonLock\n"
            "lock = DaemonLock(sys.argv[1])\n"
            "lock.take()\n"
            "print('taken', flush=True)\n"
            "time.sleep(60)",
            self.path,
        )
        assert child.stdout is not None
        self.assertEqual(child.stdout.readline(), "taken\n")
        lock = DaemonLock(self.path)
        self.addCleanup(lock.give_up)
        self.assertRaises(StoreUnusable, lock.take)
        child.kill()
        child.wait()
        lock.take()

    def test_a_process_that_is_killed(self) -> None:
        child = self.child(
            "import sys\n"
            "from ccmproxy.store.sqlite import SQLiteStore\n"
            "from tests.store.samples import records\n"
            "store = SQLiteStore(sys.argv[1])\n"
            "store.open()\n"
            "for each in range(10000):\n"
            "    store.insert(records(20, each * 20))\n"
            "    print(each, flush=True)",
            self.path,
        )
        assert child.stdout is not None
        for _ in range(10):
            child.stdout.readline()
        child.kill()
        rest = child.stdout.read().split()
        child.wait()
        batches = 10 + len(rest)
        store = self.store()
        self.assertEqual(self.check(), ())
        found = count(self.path, "records")
        self.assertIn(found, (batches * 20, batches * 20 + 20))
        self.assertEqual(store.insert(records(found + 1)), 1)

    def test_a_file_that_must_not_grow(self) -> None:
        self.fill(10)
        program = """
import resource, signal, sys
from ccmproxy.interfaces.store import StoreFailed
from ccmproxy.store.sqlite import SQLiteStore
from tests.store.samples import records
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = SQLiteStore(sys.argv[1])
store.open()
most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
try:
    store.insert(records(5000))
except StoreFailed as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
print(store.insert(records(5000)))
store.close()
"""
        failed, inserted = self.output(program, self.path).splitlines()
        self.assertIn("cannot be used at present", failed)
        self.assertEqual(inserted, "4990")
        self.assertEqual(self.check(), ())

    def test_nowhere_to_write(self) -> None:
        store = self.store()
        store.insert(records(2000))
        copy = os.path.join(self.folder, "copy.db")
        program = """
import resource, signal, sys
from ccmproxy.interfaces.store import StoreFailed
from ccmproxy.store.sqlite_reports import SQLiteReader
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    SQLiteReader(sys.argv[1]).backup(sys.argv[2])
except StoreFailed as error:
    print(type(error).__name__)
"""
        self.assertEqual(self.output(program, self.path, copy), StoreFailed.__name__)
        self.assertEqual([each for each in os.listdir(self.folder) if "copy" in each], [])
