"""ccmproxy on several machines that lend each other capacity: real processes, real links that fail (spec 7)."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.trial.unittest import SkipTest, TestCase

from ccmproxy.headers import MOST_HOPS
from ccmproxy.simulator.steps import Pace
from tests.federated import TOKENS, external, user
from tests.interop.claude_cli import (
    NOT_ASKED_FOR,
    Outcome,
    claude_command,
    client_environment,
    interop_directory,
    run_program,
)
from tests.interop.federation import PORT, Caller, Lab, Machine, started
from tests.interop.namespaces import why_not
from tests.interop.nginx import start_nginx
from tests.net.proxies import ConnectProxy, SocksProxy

MIB = 1024 * 1024
#: Asks for an answer of some MiB.
LONG = "[[tokens:60000]]"


class FederationCase(TestCase):
    """Tests that make labs. ``programs``: what they need besides ``ip``."""

    timeout = 200
    log = Logger()
    programs: tuple[str, ...] = ()

    def setUp(self) -> None:
        from twisted.internet import reactor  # noqa: TID251 - real processes need a real one

        self.reactor: Any = reactor
        problem = NOT_ASKED_FOR if interop_directory() is None else why_not(*self.programs)
        if problem is not None:
            raise SkipTest(problem)

    def lab(self) -> Lab:
        """An empty one."""
        return Lab(self, self.reactor)

    def measured(self, what: str, value: float) -> None:
        """For whoever reads the log of the tests."""
        self.log.info("measured: {what}: {value:.2f}", what=what, value=value)

    async def lending(self, lab: Lab, lender: Machine, *, has_own: bool = False) -> Machine:
        """``lender`` dials a new machine, whose user alice is served over that. Both run. The new machine.

        ``has_own``: it has an account of its own, ``own``, for when it cannot borrow ``lent``.
        """
        borrower = lab.machine("borrower")
        borrower.configure(*self.borrowing(lab, has_own))
        url = f"http://{borrower.address}:{PORT}"
        lender.configure(
            [lab.account("lent"), external("b", "b", url=url, reverse=True)], [user("b", "lent")]
        )
        await lab.run(borrower, lender)
        await borrower.logs("reverse connection of friend from")
        return borrower

    async def lending_through_nginx(self, lab: Lab, patience: str = "660s") -> Machine:
        """The same, with nginx in front of the borrower: TLS, and a prefix. ``patience``: how long nginx waits."""
        lender, borrower = lab.machine("lender"), lab.machine("borrower")
        authority = start_nginx(borrower, "ccmproxy.example.org", patience)
        borrower.configure(*self.borrowing(lab))
        url = "https://ccmproxy.example.org/team"
        dialled = external("b", "b", url=url, server=borrower.address, server_port=443, reverse=True)
        lender.configure([lab.account("lent"), dialled], [user("b", "lent")], ca_path=authority)
        await lab.run(borrower, lender)
        await borrower.logs("reverse connection of friend from")
        return borrower

    def borrowing(self, lab: Lab, has_own: bool = False) -> tuple[list[str], list[str]]:
        """Credentials and users of one that others dial, with the token of ``b``, to serve alice."""
        friend = external("friend", "b")
        if not has_own:
            return [friend], [user("alice", "friend", allow_external_usage=True)]
        pool = "{tag: pool, type: balancer, strategy: fallback, credentials: [friend, own]}"
        return [friend, lab.account("own"), pool], [user("alice", "pool", allow_external_usage=True)]

    def served(self, caller: Caller) -> None:
        """The answer is there, whole."""
        response = caller.response
        self.assertEqual((response.status, response.complete), (200, True), caller.text[-300:])

    def broken(self, caller: Caller) -> None:
        """The answer began and broke off, and nobody could think otherwise."""
        response = caller.response
        self.assertEqual((response.status, response.complete, caller.broken), (200, False, True))
        self.assertIn("content_block_delta", caller.text)
        self.assertNotIn("message_stop", caller.text)


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


class ChangeTests(FederationCase):
    """The lender's network changes, and it is told."""

    async def test_another_address(self) -> None:
        """The connection of the old one is dead, which neither side could know for half a minute."""
        lab = self.lab()
        lender = lab.machine("lender")
        borrower = await self.lending(lab, lender)
        self.served(await borrower.answer("[[say:before]]"))
        changed = lab.now
        lender.namespace.ip("addr del 10.0.0.1/24 dev eth0", "addr add 10.0.0.77/24 dev eth0")
        at_once = borrower.ask("[[say:asked at once]]")
        await borrower.logs("host='10.0.0.77'", 10)
        self.measured("seconds from another address to the new connection", lab.now - changed)
        self.served(await borrower.answer("[[say:after]]"))
        self.measured("seconds from another address to a new request's answer", lab.now - changed)
        self.assertLess(lab.now - changed, 5)
        await lab.until(lambda: at_once.is_over, "what was asked at once is answered")
        self.measured("seconds that a request took which was asked at once", at_once.seconds)
        self.served(at_once)
        self.assertLess(at_once.seconds, 9)
        self.assertEqual(lab.served_by("[[say:asked at once]]"), ["lent"])

    async def test_the_link_goes_and_comes(self) -> None:
        lab = self.lab()
        lender = lab.machine("lender")
        borrower = await self.lending(lab, lender)
        for number in range(2):
            lender.namespace.ip("link set eth0 down")
            await lab.sleep(3)
            came = lab.now
            lender.namespace.ip("link set eth0 up")
            await borrower.logs("reverse connection of friend from", 10, after=1 + number)
            self.served(await borrower.answer(f"[[say:after {number}]]"))
            self.measured("seconds from the link to an answer", lab.now - came)
            self.assertLess(lab.now - came, 5)


class TimeTests(FederationCase):
    """What takes time, all of it at the same time."""

    programs = ("nginx",)

    async def test_losses_and_silence(self) -> None:
        """Losses of three lengths; and a connection that nobody uses, through an nginx that waits long enough for a
        sign of life, and through one that does not."""
        await gatherResults(
            [
                *(started(self.loss(seconds)) for seconds in (5.0, 20.0, 60.0)),
                started(self.silence("18s", is_cut=False)),
                started(self.silence("8s", is_cut=True)),
            ],
            consumeErrors=True,
        )

    async def silence(self, patience: str, is_cut: bool) -> None:
        """A connection that nobody uses for a while."""
        lab = self.lab()
        borrower = await self.lending_through_nginx(lab, patience)
        await lab.sleep(40)
        self.assertEqual(bool(borrower.logged("reverse connection of friend is down")), is_cut, patience)
        self.measured(
            f"losses in 40 s of silence through an nginx that waits {patience}",
            len(borrower.logged("reverse connection of friend is down")),
        )
        await borrower.lent_again(lab.now, 20)

    async def loss(self, seconds: float) -> None:
        """One that lasts ``seconds``, with a stream and a request in flight."""
        lab = self.lab()
        lab.simulator.pace = Pace(each=0.2)
        lender = lab.machine("lender")
        borrower = await self.lending(lab, lender, has_own=True)
        stream = borrower.ask("[[tokens:150]]", stream=True)
        waiting = borrower.ask("[[simulate:hang;times=1]] [[say:at last]]")
        await lab.until(lambda: stream.text.count("content_block_delta") > 10, "the stream has begun")
        lab.pull(lender)
        pulled = lab.now
        name = f"after {seconds:.0f} s without a network"
        ends = ((lender, "b: no reverse connection"), (borrower, "reverse connection of friend is down"))
        found = [started(self.found_out(lab, name, machine, words, seconds)) for machine, words in ends]
        await lab.sleep(seconds)
        lab.push(lender)
        took = await borrower.lent_again(pulled + seconds, 60)
        self.measured(f"{name}: seconds until something is lent again", took)
        is_lost = await gatherResults(found)
        await lab.until(lambda: stream.is_over, "the stream has ended")
        self.assertEqual(lab.served_by("[[tokens:150]]"), ["lent"])
        if seconds < 10:
            self.assertEqual(is_lost, [False, False])
        elif seconds > 30:
            self.assertEqual(is_lost, [True, True])
            self.served(waiting)
            self.assertEqual(lab.served_by("[[say:at last]]"), ["lent", "own"])
        # 20 s may or may not be too long: that depends on when the last ping was
        if any(machine.logged(words) for machine, words in ends):
            self.broken(stream)
        else:
            self.served(stream)
            self.assertIn("message_stop", stream.text)

    async def found_out(self, lab: Lab, name: str, machine: Machine, words: str, seconds: float) -> bool:
        """Whether a side finds out that nothing comes through, as long as that is so."""
        began = lab.now
        while lab.now < began + seconds:
            if machine.logged(words):
                self.measured(f"{name}: seconds until the {machine.name} knew", lab.now - began)
                return True
            await lab.sleep(0.05)
        return False


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
        refused = sum(len(machine.logged("has passed too many instances")) for machine in machines)
        passed = sum(len(machine.logged("POST /v1/messages")) for machine in machines)
        self.assertEqual((refused, passed), (1, MOST_HOPS + 1))


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
