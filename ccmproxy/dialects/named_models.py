"""Every model that a document may ask for, for users who may not ask for every model (spec 9.6). Pure.

What decides is not what our decoder takes for the model, but what any decoder may: a key that is there twice, spelt
with escapes or in capitals; an answer's settings within ``response``; models that tools of the provider ask. So a
document is read again, in more detail than the others need.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from ccmproxy.dialects.facts import RequestFacts
from ccmproxy.dialects.json_values import DECODE_ERRORS, text_decoder
from ccmproxy.dialects.request_documents import NotQuick
from ccmproxy.http.message import Headers, first_value, lower_names
from ccmproxy.policy.allowed_models import ModelUse

#: So many strings and brackets are gone through in the reactor's own thread: up to 20 ms.
MOST_QUICK_TOKENS: Final = 40_000
#: A document with more of them is not gone through.
MOST_TOKENS: Final = 2_000_000
#: Nor is one with more backslashes: one string is found in one step, at 20 ns for each of them, and the interpreter
#: lock is held all the while.
MOST_ESCAPES: Final = 2_000_000
#: So many backslashes take as long as a token.
_ESCAPES_PER_TOKEN: Final = 16
#: What a document is counted by before it is gone through. A string has two of its marks.
_COUNTED: Final = (b'"', b"{", b"}", b"[", b"]")

_MODEL: Final = b"model"
_NAMED: Final = b'"model"'
#: How the letters of the key begin where they are escaped (RFC 8259 section 7).
_ESCAPED_LETTERS: Final = (b"\\u004", b"\\u006")
#: Keys of the document → depth of the objects below them that may name a model: ``response.model`` (the form that
#: OpenAI's realtime messages have), ``tools[].model`` (Anthropic's advisor, OpenAI's images), ``fallbacks[].model``.
_PLACES: Final = {b"response": 2, b"tools": 3, b"fallbacks": 3}

#: What stands before a token, and the token: a string, with the colon behind it where it is a key; a bracket that
#: opens; one that closes; the end. Each match begins where the last one ended, so that nothing is looked at twice.
_TOKEN = re.compile(
    rb'[^"{}\[\]]*+(?:("[^"\\]*+(?:\\.[^"\\]*+)*+")(?:\s*+(:))?|([{\[])|([}\]])|\Z)', re.DOTALL
)
_STRING, _KEY, _OPENS, _CLOSES = 1, 2, 3, 4

_JSON_TYPE = re.compile(rb'application/(?:[\w.-]+\+)?json(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)


class TooManyTokens(Exception):
    """The document would take too long to go through."""


def named_models(document: bytes, model: str | None, quick: bool = False) -> tuple[str | None, ...]:
    """Return every name that the JSON object ``document`` gives for a model; None for one that is no text.

    ``document``: valid, as far as msgspec looks. ``model``: what it reads as the model. ``quick``: raise NotQuick where
    it may take more than 20 ms. Raises TooManyTokens.
    """
    lower = document.lower()
    if model is not None and lower.count(_NAMED) == 1 and not any(each in lower for each in _ESCAPED_LETTERS):
        return (model,)
    tokens = sum(document.count(each) for each in _COUNTED)
    escapes = document.count(b"\\")
    if tokens > MOST_TOKENS or escapes > MOST_ESCAPES:
        raise TooManyTokens
    if quick and tokens + escapes // _ESCAPES_PER_TOKEN > MOST_QUICK_TOKENS:
        raise NotQuick
    return tuple(_names(document))


def _names(document: bytes) -> list[str | None]:
    names: list[str | None] = []
    depth = 0
    awaited = False
    place = 0
    for token in _TOKEN.finditer(document):
        kind = token.lastindex
        if awaited:
            # A number, true, false or null is no token: then this one is already the next key, or closes the object.
            awaited = False
            names.append(_text(token[_STRING]) if kind == _STRING else None)
        if kind == _KEY:
            if depth == 1:
                key = _key(token[_STRING])
                place = _PLACES.get(key, 0)
                awaited = key == _MODEL
            elif depth == place:
                awaited = _key(token[_STRING]) == _MODEL
        elif kind == _OPENS:
            depth += 1
        elif kind == _CLOSES:
            depth -= 1
    return names


def _key(token: bytes) -> bytes:
    """Return a key as the most generous decoder would compare it."""
    if b"\\" not in token:
        return token[1:-1].lower()
    return (_text(token) or "").lower().encode("utf-8", "surrogatepass")


def _text(token: bytes) -> str | None:
    try:
        return text_decoder.decode(token)
    except DECODE_ERRORS:
        return None


def is_plain_json(headers: Headers) -> bool:
    """Return whether everybody reads the body of these header fields as the same JSON: one Content-Type at most, JSON
    in UTF-8, and one Content-Encoding at most."""
    names = lower_names(headers)
    if names.count(b"content-type") > 1 or names.count(b"content-encoding") > 1:
        return False
    told = first_value(headers, b"content-type")
    return told is None or _JSON_TYPE.fullmatch(told.strip()) is not None


def with_models(
    facts: RequestFacts, headers: Headers, size: int, document: bytes, endpoint: ModelUse, quick: bool
) -> RequestFacts:
    """Return ``facts`` with what decides whether the user may ask for the model of the request.

    ``size``: of the body as it came, in bytes; ``document``: the body, decoded; empty where it could not be read.
    ``endpoint``: what a body that is sent to the endpoint has to do with models; without one nothing asks for a model,
    unless it is a turn, which names none then. ``quick``: raise NotQuick where it may take more than 20 ms.
    """
    use = endpoint if size or facts.billable else ModelUse.NONE
    if use is ModelUse.NONE or facts.is_opaque or not size:
        return replace(facts, use=use)
    if is_plain_json(headers):
        try:
            return replace(facts, use=use, names=named_models(document, facts.model, quick))
        except TooManyTokens:
            pass
    return replace(facts, use=use, is_opaque=True)
