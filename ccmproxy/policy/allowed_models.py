"""Which models a user may ask for, and whether a request stays within them (spec 9.6). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from fnmatch import fnmatchcase

from ccmproxy.policy.refusals import Refusal

#: The word of every refusal of this kind, by which another instance recognizes it.
NOT_ALLOWED = "model_not_allowed"
#: How much of the globs a refusal names (characters).
LONGEST_LIST = 300


class ModelUse(Enum):
    """What a request has to do with models, as far as its method and its path tell."""

    #: No model answers it, whatever it says.
    NONE = auto()
    #: It may name a model, and asks for nothing where it does not: to count tokens, for example.
    IF_NAMED = auto()
    #: A model may answer it. Which one is not known where it names none, so that it may be any.
    ALWAYS = auto()


@dataclass(frozen=True, slots=True)
class ModelsAsked:
    """What is known of the models that a request or a turn asks for.

    ``names``: every name that the upstream may act upon, as the client wrote it; None stands for one that could not be
    a name. ``is_named``: the model that answers is among them. ``is_hidden``: not everything in it could be read.
    """

    use: ModelUse = ModelUse.ALWAYS
    names: Sequence[str | None] = ()
    is_named: bool = False
    is_hidden: bool = False


def model_refusal(allowed: Sequence[str], asked: ModelsAsked) -> Refusal | None:
    """Return the refusal of what asks, or may ask, for a model that none of the globs ``allowed`` matches.

    Whatever cannot be ruled out is refused: a list of what is allowed that can be passed by hiding something is none.
    """
    if asked.use is ModelUse.NONE:
        return None
    if asked.is_hidden:
        return _refusal("ccmproxy cannot read which model this request asks for, and", allowed)
    if not all(is_allowed(allowed, name) for name in asked.names):
        return _refusal("this model is not allowed:", allowed)
    if asked.use is ModelUse.ALWAYS and not asked.is_named:
        return _refusal("this request names no model, and", allowed)
    return None


def is_allowed(allowed: Sequence[str], name: str | None) -> bool:
    """Return whether one of the globs matches ``name`` as a whole, upper and lower case being different.

    A name that is not made of visible ASCII characters matches none: a provider might read another name in it, by
    leaving out the white space around it, for example.
    """
    if not name or not all("!" <= character <= "~" for character in name):
        return False
    return any(fnmatchcase(name, glob) for glob in allowed)


def told_list(allowed: Sequence[str]) -> str:
    """Return the globs as a client is told them: as many as there is room for, and how many there are besides."""
    shown: list[str] = []
    room = LONGEST_LIST
    for glob in allowed:
        room -= len(glob) + 2
        if room < 0 and shown:
            return f"{', '.join(shown)} and {len(allowed) - len(shown)} more"
        shown.append(glob)
    return ", ".join(shown)


def _refusal(why: str, allowed: Sequence[str]) -> Refusal:
    return Refusal(403, NOT_ALLOWED, f"{why} this token may use only: {told_list(allowed)}")
