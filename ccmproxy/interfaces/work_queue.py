"""Work that would keep the reactor too long, done elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from zope.interface import Interface

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

_T = TypeVar("_T")


class QueueFull(Exception):
    """So much work is waiting already that no more is taken, of anybody or of this user."""


class IWorkQueue(Interface):
    """Does pieces of work one after the other, without keeping the reactor."""

    def run(user: str, work: Callable[[], _T]) -> Deferred[_T]:
        """Do ``work``, after what is waiting already. Raises QueueFull.

        ``user``: on whose behalf; each may have only so much waiting. ``work``: called in another thread, so that it
        must not touch what belongs to the reactor. The Deferred fires in the reactor's thread with the result. Work
        whose Deferred is cancelled before it began is not done.
        """

    def stop() -> None:
        """Cancel what waits, and wait for the piece of work that is being done. Takes no more."""
