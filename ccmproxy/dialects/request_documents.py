"""Looking into the body of a request: how much of it, and how much at once in the reactor's own thread (F31, F63).

Looking never changes what goes to the upstream. A body that is not looked into is forwarded all the same; the facts
that it would have told are None.

The decoder (msgspec) skips what is not asked for without building it, at 0.3 ns per byte of text and at most 3 ns per
byte of brackets, which is many times faster than a decoder that takes its input in pieces. It holds the interpreter
lock all the while, so that a thread alone would not help the reactor: the size of a body and the number of its
elements are what bounds it. Within these bounds one call of the decoder takes some 30 ms at most, and 1 to 5 ms for
the largest bodies that clients really send.
"""

from __future__ import annotations

from typing import Final

import msgspec

from ccmproxy.dialects.json_values import read_raw
from ccmproxy.http.content_coding import LARGEST, decompressed
from ccmproxy.http.message import Body

#: A body of up to this size is looked into in the reactor's thread: 3 ms at worst (bytes, inflated), and 6 ms where a
#: field has an unexpected type, as long as it does not hold more objects than ``MOST_QUICK_OBJECTS``.
QUICK: Final = 1024 * 1024
#: Objects may have to be counted one by one, at 30 ns each. The bound is on opening braces, strings included.
MOST_QUICK_OBJECTS: Final = 50_000
#: The same for a compressed body: 15 ms at worst to inflate (bytes as they came).
QUICK_PACKED: Final = 128 * 1024
#: A larger body is not looked into: the most that the Anthropic API takes (bytes).
LARGEST_LOOKED_INTO: Final = 32 * 1024 * 1024
#: How often each of these bytes may occur in a body that is larger than ``QUICK``, strings included: a bound on the
#: elements of its arrays and objects. A conversation of a million tokens stays below.
MOST_ELEMENTS: Final = ((b",", 1_000_000), (b"[", 1_000_000), (b"{", 250_000))
#: Bytes that are counted at once.
_SLICE: Final = 256 * 1024
#: A list whose items are not all objects is counted up to this size (bytes).
_LARGEST_LIST: Final = 64 * 1024


class NotQuick(Exception):
    """Looking into a body may take longer than the reactor should be kept."""


class _Item(msgspec.Struct, gc=False):
    """An object of which nothing is kept: 16 bytes, in place of the 64 of a Raw."""


#: Counts the items of a list of objects.
ItemList = list[_Item]
_items_decoder = msgspec.json.Decoder(ItemList)
_any_items_decoder = msgspec.json.Decoder(list[msgspec.Raw])


def read_document(body: Body, coding: bytes | None, quick: bool) -> bytes:
    """Return the document to look into; empty if there is none, if it cannot be read, or if it is too large.

    ``coding``: value of Content-Encoding, None where there is none. ``quick``: raise NotQuick if reading and decoding
    the document may take more than 20 ms. Without ``quick``, made to be called in a thread.
    """
    size = body.size
    if coding is None or coding.strip().lower() == b"identity":
        if size > LARGEST_LOOKED_INTO:
            return b""
        if size <= QUICK:
            return _quick_document(body.joined(), quick)
        if quick:
            raise NotQuick
        document = body.joined()
    elif quick:
        if size > QUICK_PACKED:
            raise NotQuick
        inflated = decompressed(body.joined(), coding, QUICK)
        if inflated is None:
            raise NotQuick  # too large, or broken: whoever takes the time will know
        return _quick_document(inflated, quick)
    else:
        inflated = decompressed(body.joined(), coding, LARGEST)
        if inflated is None:
            return b""
        document = inflated
    return document if len(document) <= QUICK or has_few_elements(document) else b""


def _quick_document(document: bytes, quick: bool) -> bytes:
    """Return a document of up to ``QUICK`` bytes. Raises NotQuick if ``quick`` and there are many objects in it."""
    if quick and len(document) > MOST_QUICK_OBJECTS and document.count(b"{") > MOST_QUICK_OBJECTS:
        raise NotQuick
    return document


def has_few_elements(document: bytes) -> bool:
    """Return whether the document stays within ``MOST_ELEMENTS``. Stops as soon as it does not."""
    left = [most for _, most in MOST_ELEMENTS]
    for start in range(0, len(document), _SLICE):
        for index, (element, _) in enumerate(MOST_ELEMENTS):
            left[index] -= document.count(element, start, start + _SLICE)
            if left[index] < 0:
                return False
    return True


def count_items(items: msgspec.Raw) -> int | None:
    """Return the number of items in a list of objects, or in a short list of anything; None for anything else."""
    found = read_raw(items, _items_decoder)
    if found is not None:
        return len(found)
    if len(bytes(items)) > _LARGEST_LIST:
        return None
    others = read_raw(items, _any_items_decoder)
    return None if others is None else len(others)
