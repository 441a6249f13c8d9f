"""Which paths go to an upstream (spec 14)."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from urllib.parse import unquote_to_bytes

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.surfaces.paths import LONGEST_PATH, is_below_v1
from tests.profiles import examples

#: Paths that clients ask for.
SERVED = (
    b"/v1/messages",
    b"/v1/messages/count_tokens",
    b"/v1/messages/batches/msgbatch_01HkcTjaV5uDC8jWR4ZsDV8d/results",
    b"/v1/models",
    b"/v1/models/",
    b"/v1/models/claude-opus-4-5@20251101",
    b"/v1/models/claude-opus-4-1[1m]",
    b"/v1/models/claude-opus-4-1%5B1m%5d",
    b"/v1/models/ft:gpt-4o:org::id",
    b"/v1/models/ft%3Agpt-4o%3aorg",
    b"/v1/models/claude..opus",
    b"/v1/...",
    b"/v1/.hidden/a.b",
    b"/v1/files/file_1/content",
    b"/v1/responses/compact",
    b"/v1/",
)
#: Paths that some server takes for one elsewhere, or that can be read in two ways.
REFUSED = (
    b"/v1",
    b"/v2/messages",
    b"/V1/messages",
    b"//v1/messages",
    b"/%76%31/messages",
    b"/v1/..",
    b"/v1/.",
    b"/v1/../api",
    b"/v1/a/../../api",
    b"/v1/..;/api",
    b"/v1/..;x=1/api",
    b"/v1/a;/../b",
    b"/v1/messages;a=b",
    b"/v1/%2e%2e/api",
    b"/v1/%2E./api",
    b"/v1/%252e%252e/api",
    b"/v1/%25252e%25252e%25252fapi",
    b"/v1/..%2fapi",
    b"/v1/..%252fapi",
    b"/v1/..\\api",
    b"/v1/..%5capi",
    b"/v1/..%255capi",
    b"/v1/%c0%ae%c0%ae/api",
    b"/v1/%e0%80%ae%e0%80%ae/api",
    b"/v1/..%c0%afapi",
    b"/v1/..%ef%bc%8fapi",
    b"/v1/\xef\xbc\x8e\xef\xbc\x8e/api",
    b"/v1/%u002e%u002e/api",
    b"/v1/..%00/api",
    b"/v1/a%00/../api",
    b"/v1/..%20/api",
    b"/v1/%09../api",
    b"/v1/..%0d/api",
    b"/v1/..%3b/api",
    b"/v1/..%3f/api",
    b"/v1/..%23/api",
    b"/v1/a%2fb",
    b"/v1/a%",
    b"/v1/a%2",
    b"/v1/a%zz",
    b"/v1/m%65ssages",
    b"/v1//api",
    b"/v1/a//b",
    b"/v1/a b",
)


def _encoded(characters: bytes) -> bytes:
    return b"".join(b"%%%02x" % each for each in characters)


#: What hostile paths are made of: dots, slashes and what stands for them, plain and encoded up to three times.
_PLAIN = (
    b".",
    b"..",
    b"/",
    b"\\",
    b";",
    b";x=1",
    b"\x00",
    b" ",
    b"\t",
    b"%",
    b"a",
    b"api",
    b"v1",
    b"?",
    b"#",
    b"~",
)
#: Overlong UTF-8 and full-width forms, and what lenient readers take them for.
_OVERLONG = {
    b"\xc0\xae": b".",
    b"\xc0\xaf": b"/",
    b"\xe0\x80\xae": b".",
    b"\xe0\x80\xaf": b"/",
    b"\xf0\x80\x80\xae": b".",
    b"\xef\xbc\x8e": b".",
    b"\xef\xbc\x8f": b"/",
}
_ONCE = tuple(map(_encoded, (*_PLAIN, *_OVERLONG)))
_TWICE = tuple(each.replace(b"%", b"%25") for each in _ONCE) + tuple(map(_encoded, _ONCE))
PIECES = st.one_of(
    st.sampled_from((*_PLAIN, *_OVERLONG)),
    st.sampled_from(_ONCE),
    st.sampled_from(_ONCE).map(bytes.upper),
    st.sampled_from(_TWICE),
    st.sampled_from(_TWICE).map(lambda each: each.replace(b"%", b"%25")),
    st.sampled_from((b"%u002e", b"%u002f", b"%u005c", b"%U002E", b"%", b"%2", b"%c", b"..;/", b"../")),
    st.binary(min_size=1, max_size=2),
)


class PathTests(SynchronousTestCase):
    """Example by example, then whatever can be made of what attackers use."""

    def test_served(self) -> None:
        for path in SERVED:
            self.assertTrue(is_below_v1(path), path)

    def test_long_ones(self) -> None:
        """What is looked at is bounded."""
        self.assertTrue(is_below_v1(b"/v1/" + b"a" * (LONGEST_PATH - 4)))
        self.assertFalse(is_below_v1(b"/v1/" + b"a" * (LONGEST_PATH - 3)))

    def test_refused(self) -> None:
        for path in REFUSED:
            self.assertFalse(is_below_v1(path), path)

    @examples(400)
    @given(st.lists(PIECES, max_size=8).map(b"".join))
    @example(b"..;/api")
    @example(b"%252e%252e/api")
    def test_nobody_reads_it_as_a_path_elsewhere(self, rest: bytes) -> None:
        """A path that is served stays below /v1/ for every server, whatever it decodes, how often, in which order."""
        path = b"/v1/" + rest
        if is_below_v1(path):
            for reading in readings(path):
                resolved = posixpath.normpath(re.sub(rb"/+", b"/", reading))
                self.assertTrue(f"{resolved.decode('latin-1')}/".startswith("/v1/"), (path, reading))

    def test_the_readings_find_what_is_hidden(self) -> None:
        """The property would prove nothing if its servers decoded less than real ones do."""
        for path in (
            b"/v1/..;a/api",
            b"/v1/%252e%252e/api",
            b"/v1/..%5capi",
            b"/v1/%c0%ae%c0%ae%c0%afapi",
            b"/v1/%e0%80%ae%e0%80%ae/api",
            b"/v1/%u002e%u002e/api",
            b"/v1/..%00x/api",
            b"/v1/..%20/api",
            b"/v1/\xef\xbc\x8e\xef\xbc\x8e/api",
        ):
            resolved = {posixpath.normpath(reading) for reading in readings(path)}
            self.assertIn(b"/api", resolved, path)


def _overlong(path: bytes) -> bytes:
    """Decode what lenient readers of UTF-8 take for ASCII, and full-width forms of it."""
    for long, short in _OVERLONG.items():
        path = path.replace(long, short)
    return path


def _percent_u(path: bytes) -> bytes:
    return re.sub(rb"%[uU]00([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), path)


#: One thing each that some server does to a path before it decides where the path leads.
DECODERS: tuple[Callable[[bytes], bytes], ...] = (
    unquote_to_bytes,
    _overlong,
    _percent_u,
    lambda path: path.replace(b"\\", b"/"),
    lambda path: re.sub(rb";[^/]*", b"", path),
    lambda path: path.partition(b"\x00")[0],
    lambda path: re.sub(rb"\x00[^/]*", b"", path),
    lambda path: re.sub(rb"[\x00-\x20\x7f]+(?=/|$)", b"", path),
    lambda path: re.sub(rb"[\x00-\x20\x7f]", b"", path),
    lambda path: path.partition(b"?")[0].partition(b"#")[0],
)


def readings(path: bytes) -> Iterator[bytes]:
    """Everything that up to six decoders, one after the other, make of ``path``."""
    found = {path}
    new = [path]
    for _ in range(6):
        new = [result for each in new for decode in DECODERS if (result := decode(each)) not in found]
        found.update(new)
        new = list(dict.fromkeys(new))
    yield from found
