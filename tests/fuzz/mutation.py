"""Damaging what is valid, as a stranger would."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

#: Longest result, in bytes: what is repeated is repeated until then.
LONGEST = 20_000
#: What parsers of text like to trip over.
_TOKENS = (
    *(
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b"\x7f",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\xe2\x82",
        b" ",
        b"\t",
        b":",
        b",",
        b"-1",
    ),
    *(b"[", b"{", b'"', b"\\", b"]", b"}", b"1e999", b"\\ud800", b"9" * 5000, b"[" * 2000, b'{"a":' * 500),
)


@st.composite
def mutated(draw: st.DrawFn, valid: st.SearchStrategy[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One valid input, as it is or with up to four kinds of damage. ``tokens``: what this format may trip over."""
    data = draw(valid)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        kind = draw(st.sampled_from(("insert", "delete", "repeat", "flip", "cut", "splice", "any")))
        if kind == "insert":
            data = data[:at] + draw(st.sampled_from((*_TOKENS, *tokens))) + data[at:]
        elif kind == "delete":
            data = data[:at] + data[end:]
        elif kind == "repeat":
            times = draw(st.sampled_from((2, 3, 100, LONGEST)))
            times = min(times, 1 + LONGEST // max(1, end - at))
            data = data[:at] + data[at:end] * times + data[end:]
        elif kind == "flip" and data:
            place = at % len(data)
            data = data[:place] + bytes([data[place] ^ 1 << draw(st.integers(0, 7))]) + data[place + 1 :]
        elif kind == "cut":
            data = data[:at]
        elif kind == "splice":
            data = data[:at] + draw(valid)[draw(st.integers(0, 20)) :]
        elif kind == "any":
            data = data[:at] + draw(st.binary(max_size=20)) + data[end:]
        data = data[: 2 * LONGEST]
    return data


def pieces(data: bytes, size: int) -> list[bytes]:
    """``data`` in pieces of ``size`` bytes; 0: in one."""
    step = size or len(data) or 1
    return [data[at : at + step] for at in range(0, len(data), step)]


#: Sizes of pieces to compare with the whole: byte by byte, and sizes that cut whatever has a length in odd places.
PIECES = (1, 7)
