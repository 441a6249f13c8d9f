"""Looking into a body that may take too long to look into within one turn of the reactor (F24, F63)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure
from zope.interface import implementer

from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.http.message import Body
from ccmproxy.interfaces.work_queue import IWorkQueue, QueueFull
from ccmproxy.policy.refusals import TOO_MANY_BODIES
from ccmproxy.proxy.proxied_request import ProxiedRequest

_T = TypeVar("_T")


def inspect_later(
    asked: ProxiedRequest, body: Body, done: Callable[[Body], None], failed: Callable[[Failure], None]
) -> Deferred[None] | None:
    """Find out the facts of a request in the service's work queue, and then call ``done`` with the body.

    ``failed`` is called with an error of ccmproxy itself. Returns None where the queue is full, and the request was
    refused. To be cancelled when the client is gone: then nothing is called any more.
    """
    context = asked.context
    try:
        facts = context.work.run(
            asked.caller.name,
            partial(
                context.dialect.traffic.inspect,
                asked.request.head,
                body,
                all_models=bool(asked.caller.models),
            ),
        )
    except QueueFull:
        asked.refuse(TOO_MANY_BODIES)
        return None

    def found(facts: RequestFacts) -> None:
        asked.facts = facts
        done(body)

    def broken(failure: Failure) -> None:
        if not failure.check(CancelledError):
            failed(failure)

    return facts.addCallback(found).addErrback(broken)


@implementer(IWorkQueue)
class WorkAtOnce:
    """Does all work at once, in the thread that asks for it: for tests, and where there is no thread to have."""

    def run(self, user: str, work: Callable[[], _T]) -> Deferred[_T]:
        return succeed(work())

    def stop(self) -> None:
        """Do nothing: nothing waits."""
