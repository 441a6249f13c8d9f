"""ccmproxy on several machines that lend each other capacity: real processes (spec 7)."""

from __future__ import annotations

from itertools import pairwise

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import SkipTest

from ccmproxy.http.headers import MOST_HOPS
from ccmproxy.simulator.steps import Pace
from tests.federated import TOKENS, external, user
from tests.interop.claude_cli import Outcome, claude_command, client_environment, run_program
from tests.interop.federation import PORT, Lab, Machine, started
from tests.interop.federation_case import FederationCase
from tests.transports.proxies import ConnectProxy, SocksProxy

MIB = 1024 * 1024
#: Asks for an answer of some MiB.
LONG = "[[tokens:60000]]"


class ReachTests(FederationCase):
    """Who can dial whom."""

    programs = ("nft",)

    async def test_behind_a_router(self) -> None:
        """The lender has no address of its own in public."""
        lab = self.lab()
        lender = lab.machine_behind_a_router("lender")
        borrower = await self.lending(lab, lender)
        for address in (lender.address, "10.0.0.1"):
            connecting = borrower.endpoint(address, PORT).connect(Factory.forProtocol(Protocol))
            await self.assertFailure(connecting, ConnectError)
        self.served(await borrower.answer("[[say:lent]]"))
        self.assertEqual(lab.served_by("[[say:lent]]"), ["lent"])
        self.assertIn("host='10.0.0.1'", borrower.logged("reverse connection of friend from")[0])

    async def test_detours(self) -> None:
        """The way out is a proxy, one of either kind."""
        lab = self.lab()
        lender, borrower = lab.machine("lender"), lab.machine("borrower")
        borrower.configure(
            [external("friend", "b"), external("other", "c")],
            [
                user("alice", "friend", allow_external_usage=True),
                user("bob", "other", allow_external_usage=True),
            ],
        )
        url = f"http://{borrower.address}:{PORT}"
        lender.configure(
            [
                lab.account("lent"),
                external("b", "b", url=url, reverse=True, detour="socks"),
                external("c", "c", url=url, reverse=True, detour="connect"),
            ],
            [user("b", "lent"), user("c", "lent")],
            [
                "{tag: socks, type: socks, server: 127.0.0.1, server_port: 1080}",
                "{tag: connect, type: http, server: 127.0.0.1, server_port: 3128}",
            ],
        )
        proxies = SocksProxy(lender.endpoint), ConnectProxy(lender.endpoint)
        lender.listen(1080, proxies[0])
        lender.listen(3128, proxies[1])
        await lab.run(borrower, lender)
        for tag, name in (("friend", "alice"), ("other", "bob")):
            await borrower.logs(f"reverse connection of {tag} from")
            self.served(await borrower.answer("[[say:lent]]", name))
        self.assertEqual(lab.served_by("[[say:lent]]"), ["lent", "lent"])
        for proxy in proxies:
            self.assertEqual(set(proxy.asked), {(borrower.address, PORT)})
            self.assertGreaterEqual(proxy.open, 1)


class InFlightTests(FederationCase):
    """The tunnel dies under requests, because the lender does."""

    async def test_in_flight(self) -> None:
        lab = self.lab()
        lab.simulator.pace = Pace(each=0.1)
        lender = lab.machine("lender")
        borrower = await self.lending(lab, lender, has_own=True)
        streams = [borrower.ask("[[tokens:200]]", stream=True) for _ in range(5)]
        waiting = [
            borrower.ask("[[simulate:hang;times=1]] [[say:at last]]", session=f"s{n}") for n in range(5)
        ]
        await lab.until(
            lambda: (
                all(each.text.count("content_block_delta") > 5 for each in streams)
                and len(lab.served_by("[[say:at last]]")) == 5
            ),
            "everything is in flight",
        )
        lender.daemon.kill()
        died = lab.now
        await lab.until(lambda: all(each.is_over for each in (*streams, *waiting)), "everything has ended")
        self.measured("seconds from a lender's death to the last answer", lab.now - died)
        for stream in streams:
            self.broken(stream)
        for each in waiting:
            self.served(each)
            self.assertIn("at last", each.text)
        self.assertEqual(lab.served_by("[[say:at last]]"), ["lent"] * 5 + ["own"] * 5)
        # and it comes back by itself
        await lab.run(lender)
        self.measured(
            "seconds from the lender's start to what it lends", await borrower.lent_again(lab.now, 20)
        )


class BurstTests(FederationCase):
    """Many streams at once over one connection, and some that nobody reads."""

    async def test_slow_readers(self) -> None:
        lab = self.lab()
        lender = lab.machine("lender")
        lender.limit_buffers()
        borrower = await self.lending(lab, lender)
        borrower.limit_buffers()
        daemons = (lender.daemon, borrower.daemon)
        await self.burst(lab, borrower, 50)  # nothing is measured cold
        alone = await self.burst(lab, borrower, 192)
        before = [daemon.memory for daemon in daemons]
        lab.simulator.pace = Pace()
        slow = [borrower.ask(LONG, stream=True, is_reading=False) for _ in range(8)]
        await lab.until(lambda: len(lab.served_by(LONG)) == 8, "the slow ones are being served")
        await lab.sleep(2)  # until everything that can fill up is full
        beside = await self.burst(lab, borrower, 192)
        grown = [daemon.memory - size for daemon, size in zip(daemons, before, strict=True)]
        self.measured("seconds of 192 streams", alone)
        self.measured("seconds of 192 streams beside 8 that nobody reads", beside)
        for daemon, size in zip(daemons, grown, strict=True):
            self.measured(f"MiB that {daemon.name} has grown by", size / MIB)
            self.assertLess(size, 32 * MIB, daemon.name)
        states = {turn.state for turn in lab.simulator.requests.of("turn") if LONG.encode() in turn.body}
        self.assertEqual(states, {"answering"}, "they were to be slow")
        self.assertLess(beside, 4 * alone + 2)
        for each in slow:
            each.read_on()
        await lab.until(lambda: all(each.is_over for each in slow), "the slow ones have read on", 60)
        for each in slow:
            self.served(each)
            self.assertIn("message_stop", each.text[-300:])
        self.measured("MiB of a slow one", len(slow[0].received) / MIB)

    async def burst(self, lab: Lab, borrower: Machine, number: int) -> float:
        """So many streams at once; the seconds until all are there, whole."""
        lab.simulator.pace = Pace(each=0.02)
        began = lab.now
        callers = [borrower.ask("[[tokens:60]]", stream=True) for _ in range(number)]
        await lab.until(lambda: all(caller.is_over for caller in callers), "the burst is over")
        took = lab.now - began
        for caller in callers:
            self.served(caller)
            self.assertIn("message_stop", caller.text)
        return took


class ChainTests(FederationCase):
    """More than two."""

    async def test_three(self) -> None:
        """The first lends to the second, and that to the third: each dials the next."""
        lab = self.lab()
        first, second, third = (lab.machine(name) for name in ("first", "second", "third"))
        first.configure(
            [
                lab.account("lent"),
                external("dialled", "a", url=f"http://{second.address}:{PORT}", reverse=True),
            ],
            [user("a", "lent")],
        )
        second.configure(
            [
                external("previous", "a"),
                external("dialled", "b", url=f"http://{third.address}:{PORT}", reverse=True),
            ],
            [user("b", "previous", allow_external_usage=True)],
        )
        third.configure([external("previous", "b")], [user("alice", "previous", allow_external_usage=True)])
        await lab.run(first, second, third)
        for machine in (second, third):
            await machine.logs("reverse connection of previous from")
        callers = [third.ask("[[say:passed on]]", stream=number % 2 == 1) for number in range(10)]
        await lab.until(lambda: all(each.is_over for each in callers), "answers")
        for each in callers:
            self.served(each)
        self.assertEqual(lab.served_by("[[say:passed on]]"), ["lent"] * 10)
        (turn, *_) = lab.simulator.requests.of("turn")
        self.assertIsNone(turn.header(b"x-ccm-hops"))

    async def test_a_ring(self) -> None:
        """Each borrows from the next, before it uses an account of its own: no request goes round for ever, nor does
        the news that what the others have has changed, and with it what it has itself."""
        lab = self.lab()
        machines = [lab.machine(name) for name in "abc"]
        for (previous, machine), following in zip(pairwise([machines[2], *machines]), "bca", strict=True):
            own = f"own-{machine.name}"
            dialled = external("dialled", machine.name, url=f"http://{previous.address}:{PORT}", reverse=True)
            pool = f"{{tag: pool, type: balancer, strategy: fallback, credentials: [next, {own}]}}"
            machine.configure(
                [external("next", following), dialled, lab.account(own), pool],
                [user(name, "pool", allow_external_usage=True) for name in {machine.name, "alice"}],
            )
        await lab.run(*machines)
        for machine in machines:
            await machine.logs("reverse connection of next from")
        await lab.sleep(1)
        before = [machine.daemon.cpu for machine in machines]
        began = lab.now
        await lab.sleep(3)
        used = max(machine.daemon.cpu - cpu for machine, cpu in zip(machines, before, strict=True))
        self.measured("share of a core that states take in a ring", used / (lab.now - began))
        self.assertLess(used / (lab.now - began), 0.15)
        caller = await machines[0].answer("[[say:by somebody]]")
        self.measured("seconds round a ring", caller.seconds)
        self.served(caller)
        self.assertEqual(len(lab.served_by("[[say:by somebody]]")), 1)

        def count(words: str) -> int:
            return sum(len(machine.logged(words)) for machine in machines)

        # once round, a step further, and back to the one that has tried everything but its own account
        await lab.until(lambda: count("POST /v1/messages") >= MOST_HOPS + 1, "all have logged it")
        self.assertEqual(count("POST /v1/messages"), MOST_HOPS + 1)
        self.assertEqual(count("has passed too many instances"), 1)


class NginxTests(FederationCase):
    """The borrower is behind nginx, as etc/nginx.conf.example has it, which speaks TLS for it."""

    programs = ("nginx",)

    async def test_nginx(self) -> None:
        lab = self.lab()
        borrower = await self.lending_through_nginx(lab)
        self.assertIn("host='127.0.0.1'", borrower.logged("reverse connection of friend from")[0])
        for is_stream in (False, True):
            self.served(await borrower.answer("[[say:lent]]", stream=is_stream))
        self.assertEqual(lab.served_by("[[say:lent]]"), ["lent"] * 2)


class CLITests(FederationCase):
    """The real Claude Code at the borrower, on the lender's account."""

    async def test_conversations(self) -> None:
        command = claude_command("latest")
        if isinstance(command, str):
            raise SkipTest(command)
        lab = self.lab()
        lender = lab.machine("lender")
        borrower = await self.lending(lab, lender)
        home = lab.folder / "home"
        home.mkdir()

        def run(*arguments: str) -> Deferred[Outcome]:
            environment = client_environment(
                home, f"http://127.0.0.1:{PORT}", ANTHROPIC_AUTH_TOKEN=TOKENS["alice"]
            )
            with borrower.namespace:
                return started(run_program(self.reactor, [*command, "-p", *arguments], environment, home))

        tool = '[[tool:Bash:{"command":"echo result-$((40 + 2))","description":"Add"}]]'
        first, used = await gatherResults(
            [run("--output-format", "json", "[[say:first]]"), run("--allowedTools", "Bash", "--", tool)]
        )
        self.assertEqual((first.code, used.code), (0, 0), first.output + used.output)
        self.assertEqual(first.json()["result"], "first")
        self.assertIn("result-42", used.output)
        session = first.json()["session_id"]
        second = await run("--output-format", "json", "--resume", session, "[[say:second]]")
        self.assertEqual(second.json()["result"], "second")
        turns = [turn for turn in lab.simulator.requests.of("turn") if turn.status == 200]
        self.assertEqual({turn.account for turn in turns}, {"lent"})
        self.assertIn(session.encode(), [turn.header(b"x-claude-code-session-id") for turn in turns])
        self.assertIn(b"[[say:first]]", turns[-1].body)
        self.assertGreaterEqual(len(turns), 4)
