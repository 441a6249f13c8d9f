"""Applies faults to requests, at every endpoint of both providers. Pure."""

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
    """The fault that a request names: in a header, or else by the ``marker`` in its prompt."""
    header = request.header(b"x-simulate")
    return header.decode("latin-1") if header is not None else marker


class DueFaults(Generic[_AccountT]):
    """Chooses the fault of each request by the plan, and applies it in one provider's format.

    ``invalid``: takes the account and a sentence, and makes the 400 for a malformed fault. ``replacement``: takes
    request, account, fault and model (empty if none), and makes the response that the fault puts in place of the real
    one.
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
        """The fault of this request, which is noted in ``request``. Raises RequestRefused if ``wish`` is malformed."""
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
        """The response for the fault at ``endpoint``, or else ``reply()``, which has no effects before it is called.

        Raises RequestRefused if the request names a malformed fault.
        """
        request.endpoint = endpoint
        fault = self.meet(request, account, endpoint, wish(request))
        if fault is not None and fault.is_answer:
            return Delivery(self._replacement(request, account, fault, ""), fault)
        return Delivery(reply(), fault)
