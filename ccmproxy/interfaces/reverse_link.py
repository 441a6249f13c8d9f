"""Reverse connections, which remote instances open to this one, as credentials use them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zope.interface import Attribute, Interface

if TYPE_CHECKING:
    from twisted.internet.interfaces import IStreamClientEndpoint


class IReverseLink(Interface):
    """A connection that a remote instance has opened to this one, and over which it receives requests (spec 7.2)."""

    endpoint: IStreamClientEndpoint = Attribute("Each connection made through it is one to the remote.")
    is_usable: bool = Attribute(
        "Whether connections can be made at the moment: the link is up, and the remote has not announced that it is"
        " leaving. Asked for with every request."
    )

    def close() -> None:
        """Accept no new connections, and end when the open ones have ended or after a time that the implementation
        sets. Returns at once. Does nothing if the link is already lost."""
