"""The simulator as a program."""

from __future__ import annotations

import io
import json
import os
import stat
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.server.factory import HTTPServerFactory
from ccmproxy.simulator.standalone import build, parse_arguments, run, write_credentials


class OptionTests(SynchronousTestCase):
    """The command line."""

    def test_build(self) -> None:
        options = parse_arguments(
            "--credentials-dir d --accounts 3 --api-keys 2 --plan pro --first-token 0.5 --per-event 0.1"
            " --token-lifetime 600 --scenario rough --seed 5".split()
        )
        simulator = build(options, Clock())
        self.assertEqual([account.name for account in simulator.claude.accounts][-1], "account-3")
        self.assertEqual(len(simulator.claude.keys), 2)
        account = simulator.claude.accounts[0]
        self.assertEqual((account.plan.subscription_type, account.expires_at), ("pro", 600.0))
        self.assertEqual((simulator.pace.first, simulator.pace.each), (0.5, 0.1))

    def test_seed_repeats_tokens(self) -> None:
        tokens = set()
        for seed in ("1", "1", "2"):
            options = parse_arguments(["--credentials-dir", "d", "--seed", seed])
            tokens.add(build(options, Clock()).claude.accounts[0].access_token)
        self.assertEqual(len(tokens), 2)

    def test_wrong(self) -> None:
        for line in ("", "--credentials-dir d --plan free", "--credentials-dir d --port x"):
            with redirect_stderr(io.StringIO()):
                self.assertRaises(SystemExit, parse_arguments, line.split())


class RunTests(SynchronousTestCase):
    """Serving."""

    def test_tells_where_it_serves_and_for_whom(self) -> None:
        reactor = MemoryReactorClock()
        output = io.StringIO()
        with redirect_stdout(output):
            running = Deferred.fromCoroutine(
                run(reactor, "--credentials-dir", self.mktemp(), "--port", "4321", "--interface", "127.0.0.1")
            )
        self.assertNoResult(running)
        self.addCleanup(running.addErrback, lambda _: None)
        self.addCleanup(running.cancel)
        (line,) = output.getvalue().splitlines()
        told = json.loads(line)
        self.assertTrue(told["url"].startswith("http://"))
        self.assertEqual(told["upstream"]["usage_url"], told["url"] + "/api/oauth/usage")
        self.assertEqual(told["codex_upstream"]["token_url"], told["url"] + "/oauth/token")
        self.assertTrue(Path(told["credentials"]["account-1"]).is_file())
        ((port, factory, _, interface),) = reactor.tcpServers
        self.assertEqual((port, interface), (4321, "127.0.0.1"))
        self.assertIsInstance(factory, HTTPServerFactory)


class CredentialTests(SynchronousTestCase):
    """Files."""

    def test_codex_files(self) -> None:
        line = "--accounts 0 --codex-accounts 1 --codex-plan team --openai-keys 1 --credentials-dir"
        options = parse_arguments([*line.split(), self.mktemp()])
        simulator = build(options, Clock())
        paths = write_credentials(simulator, options.credentials_dir)
        account = json.loads(Path(paths["codex-1"]).read_bytes())
        self.assertEqual(account["tokens"]["refresh_token"], simulator.codex.accounts[0].refresh_token)
        self.assertEqual(simulator.codex.accounts[0].plan, "team")
        key = json.loads(Path(paths["openai-key-1"]).read_bytes())
        self.assertEqual(key["OPENAI_API_KEY"], simulator.codex.keys[0].key)
        self.assertEqual(stat.S_IMODE(os.stat(paths["codex-1"]).st_mode), 0o600)

    def test_files(self) -> None:
        options = parse_arguments(["--credentials-dir", self.mktemp(), "--accounts", "2", "--api-keys", "1"])
        simulator = build(options, Clock())
        paths = write_credentials(simulator, options.credentials_dir)
        self.assertEqual(list(paths), ["account-1", "account-2", "key-1"])
        login = json.loads(Path(paths["account-2"]).read_bytes())["claudeAiOauth"]
        self.assertEqual(login["accessToken"], simulator.claude.accounts[1].access_token)
        self.assertEqual(Path(paths["key-1"]).read_text(), simulator.claude.keys[0].key)
        for path in paths.values():
            self.assertEqual(stat.S_IMODE(os.stat(path).st_mode), 0o600)
        simulator.claude.accounts[0].log_in()
        write_credentials(simulator, options.credentials_dir)
        login = json.loads(Path(paths["account-1"]).read_bytes())["claudeAiOauth"]
        self.assertEqual(login["accessToken"], simulator.claude.accounts[0].access_token)
