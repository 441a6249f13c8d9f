"""Instances on real links that fail: what they notice, what survives, and when they lend again (spec 7.4)."""

from __future__ import annotations

from twisted.internet.defer import DeferredList

from ccmproxy.simulator.steps import Pace
from tests.interop.federation import Lab, Machine, started
from tests.interop.federation_case import FederationCase


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
        """For a moment only: the connection is asked whether it lives, and it does (spec 14)."""
        lab = self.lab()
        lab.simulator.pace = Pace(each=0.2)
        lender = lab.machine("lender")
        borrower = await self.lending(lab, lender)
        stream = borrower.ask("[[tokens:100]]", stream=True)
        await lab.until(lambda: stream.text.count("content_block_delta") > 5, "the stream has begun")
        for number in range(2):
            lender.namespace.ip("link set eth0 down")
            await lab.sleep(2)
            came = lab.now
            lender.namespace.ip("link set eth0 up")
            self.served(await borrower.answer(f"[[say:after {number}]]"))
            self.measured("seconds from the link to an answer", lab.now - came)
            self.assertLess(lab.now - came, 5)
        await lab.until(lambda: stream.is_over, "the stream has ended")
        self.served(stream)
        self.assertEqual(len(borrower.logged("reverse connection of friend from")), 1)

    async def test_containers_come_and_go(self) -> None:
        """Bridges and pairs of links, as container runtimes make and remove them, cut nothing and dial nothing
        (F68)."""
        lab = self.lab()
        lab.simulator.pace = Pace(each=0.2)
        lender = lab.machine("lender")
        borrower = await self.lending(lab, lender)
        lender.namespace.ip("route add default via 10.0.0.2")
        await borrower.logs("reverse connection of friend from", 10, after=1)
        stream = borrower.ask("[[tokens:60]]", stream=True)
        await lab.until(lambda: stream.text.count("content_block_delta") > 5, "the stream has begun")
        for number in range(4):
            lender.namespace.ip(
                "link add docker0 type bridge",
                "addr add 172.17.0.1/16 dev docker0",
                "link set docker0 up",
                f"link add veth{number} type veth peer name inside{number}",
                f"link set veth{number} master docker0",
                f"link set veth{number} up",
                f"link set inside{number} up",
            )
            await lab.sleep(1.2)
            lender.namespace.ip(f"link del veth{number}", "link del docker0")
            await lab.sleep(1.2)
        await lab.until(lambda: stream.is_over, "the stream has ended")
        self.served(stream)
        self.assertEqual(len(borrower.logged("reverse connection of friend from")), 2)

    async def test_another_default_route(self) -> None:
        """A new connection takes over at once, and what the old one carries goes on to its end."""
        lab = self.lab()
        lab.simulator.pace = Pace(each=0.2)
        lender = lab.machine("lender")
        borrower = await self.lending(lab, lender)
        stream = borrower.ask("[[tokens:60]]", stream=True)
        await lab.until(lambda: stream.text.count("content_block_delta") > 5, "the stream has begun")
        lender.namespace.ip("route add default via 10.0.0.2")
        await borrower.logs("reverse connection of friend from", 10, after=1)
        self.served(await borrower.answer("[[say:by the new one]]"))
        self.assertFalse(stream.is_over, "the stream was too short to tell anything")
        self.assertEqual(borrower.logged("reverse connection of friend is down"), [])
        await lab.until(lambda: stream.is_over, "the stream has ended")
        self.served(stream)
        await borrower.logs("reverse connection of friend is down", 10)


class LostEnd:
    """A side of a connection, and whether it says from now on that this is lost, in these ``words``."""

    def __init__(self, machine: Machine, words: str) -> None:
        self.machine = machine
        self._words = words
        self._before = len(machine.logged(words))

    @property
    def knows(self) -> bool:
        """Whether it has said so."""
        return len(self.machine.logged(self._words)) > self._before


class TimeTests(FederationCase):
    """What takes time, all of it at the same time."""

    programs = ("nginx",)

    async def test_losses_and_silence(self) -> None:
        """Losses of three lengths; and a connection that nobody uses, through an nginx that waits long enough for a
        sign of life, and through one that does not."""
        works = [
            *(started(self.loss(seconds)) for seconds in (5.0, 20.0, 60.0)),
            started(self.silence("18s", is_cut=False)),
            started(self.silence("8s", is_cut=True)),
        ]
        # All of them to their end, whatever becomes of the others: then whatever they have started is gone.
        for is_good, result in await DeferredList(works, consumeErrors=True):
            if not is_good:
                result.raiseException()

    async def silence(self, patience: str, is_cut: bool) -> None:
        """A connection that nobody uses for a while."""
        lab = self.lab()
        borrower = await self.lending_through_nginx(lab, patience)
        await lab.sleep(40)
        losses = len(borrower.logged("reverse connection of friend is down"))
        self.measured(f"losses in 40 s of silence through an nginx that waits {patience}", losses)
        self.assertEqual(losses > 0, is_cut, patience)
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
        # the lender may have dialled before the borrower listened: only what is logged from now on counts
        ends = [
            LostEnd(lender, "b: no reverse connection"),
            LostEnd(borrower, "reverse connection of friend is down"),
        ]
        found = [started(self.found_out(lab, name, end, seconds)) for end in ends]
        await lab.sleep(seconds)
        lab.push(lender)
        took = await borrower.lent_again(pulled + seconds, 60)
        self.measured(f"{name}: seconds until something is lent again", took)
        is_lost = [await each for each in found]
        await lab.until(lambda: stream.is_over, "the stream has ended")
        self.assertEqual(lab.served_by("[[tokens:150]]"), ["lent"])
        if seconds < 10:
            self.assertEqual(is_lost, [False, False])
        elif seconds > 30:
            self.assertEqual(is_lost, [True, True])
            self.served(waiting)
            self.assertEqual(lab.served_by("[[say:at last]]"), ["lent", "own"])
        # 20 s may or may not be too long: that depends on when the last ping was
        if any(end.knows for end in ends):
            self.broken(stream)
        else:
            self.served(stream)
            self.assertIn("message_stop", stream.text)

    async def found_out(self, lab: Lab, name: str, end: LostEnd, seconds: float) -> bool:
        """Whether a side finds out that nothing comes through, as long as that is so."""
        began = lab.now
        while lab.now < began + seconds:
            if end.knows:
                self.measured(f"{name}: seconds until the {end.machine.name} knew", lab.now - began)
                return True
            await lab.sleep(0.05)
        return False
