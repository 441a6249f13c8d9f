"""What the tests of federations with real processes have in common."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger
from twisted.trial.unittest import SkipTest, TestCase

from tests.federated import external, user
from tests.interop.claude_cli import NOT_ASKED_FOR, interop_directory
from tests.interop.federation import PORT, Lab, Machine
from tests.interop.namespaces import why_not
from tests.interop.nginx import start_nginx
from tests.interop.running import Caller


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
