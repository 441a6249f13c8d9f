"""Which fault a request meets, and what that makes of its answer, at every endpoint of both providers. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from ccmproxy.simulator.faults import Endpoint, Fault, FaultPlan
from ccmproxy.simulator.record import ReceivedRequest
from ccmproxy.simulator.replies import RequestRefused
from ccmproxy.simulator.steps import Reply
from ccmproxy.simulator.upstream import Delivery


class _Named(Protocol):
    @property
    def name(self) -> str: ...


_AccountT = TypeVar("_AccountT", bound=_Named)


def wish(request: ReceivedRequest, marker: str | None = None) -> str | None:
    """The fault that a request asks for: in a header, or else by the ``marker`` in its prompt."""
    header = request.header(b"x-simulate")
    return header.decode("latin-1") if header is not None else marker


class DueFaults(Generic[_AccountT]):
    """Asks the plan of faults for each request, in one provider's words.

    ``invalid`` makes the 400 for a wish that cannot be read, of whose request it was and a sentence; ``replacement``
    what a fault puts in the place of an answer, of request, account, fault and model (empty where there is none).
    """

    def __init__(
        self,
        plan: FaultPlan,
        invalid: Callable[[_AccountT | None, str], Reply],
        replacement: Callable[[ReceivedRequest, _AccountT | None, Fault, str], Reply],
    ) -> None:
        self._plan = plan
        self._invalid = invalid
        self._replacement = replacement

    def meet(
        self,
        request: ReceivedRequest,
        account: _AccountT | None,
        endpoint: Endpoint,
        wish: str | None = None,
        conversation: str = "",
    ) -> Fault | None:
        """The fault that is due, noted in ``request``. Raises RequestRefused for a wish that cannot be read."""
        name = account.name if account is not None else None
        try:
            fault = self._plan.choose(endpoint, name, wish, conversation)
        except ValueError as error:
            raise RequestRefused(self._invalid(account, str(error))) from None
        request.fault = fault.name if fault is not None else None
        return fault

    def deliver(
        self,
        request: ReceivedRequest,
        account: _AccountT | None,
        endpoint: Endpoint,
        reply: Callable[[], Reply],
    ) -> Delivery:
        """The fault that is due at ``endpoint``, or else ``reply``, which has no effects before it is called.

        Raises RequestRefused for a wish that cannot be read.
        """
        request.endpoint = endpoint
        fault = self.meet(request, account, endpoint, wish(request))
        if fault is not None and fault.is_answer:
            return Delivery(self._replacement(request, account, fault, ""), fault)
        return Delivery(reply(), fault)
