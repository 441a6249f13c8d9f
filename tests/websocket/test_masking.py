"""Tests for :mod:`ccmproxy.websocket.masking`."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from ccmproxy.websocket.masking import (
    NATIVE_FROM,
    NATIVE_MASK,
    Mask,
    create_mask,
    create_native_mask,
    mask,
    mask_in_python,
    rotate,
)

#: A key whose bytes differ, so that none can stand in for another.
KEY = b"\x37\xfa\x21\x3d"
KEYS = st.binary(min_size=4, max_size=4)
#: Sizes around the one from which the native masker is used, and around the 16 bytes that it takes at once.
SIZES = st.one_of(
    st.integers(0, 40), st.integers(NATIVE_FROM - 40, NATIVE_FROM + 40), st.integers(4000, 4200)
)


def reference(data: bytes, key: bytes) -> bytes:
    """As section 5.3 of the RFC says it."""
    return bytes(byte ^ key[at % 4] for at, byte in enumerate(data))


def native() -> Mask:
    """The native mask. Raises SkipTest where autobahn was installed without it."""
    if NATIVE_MASK is None:
        raise SkipTest("this installation of autobahn has no native masker")
    return NATIVE_MASK


class MaskTests(SynchronousTestCase):
    """All masks do the same."""

    def masks(self) -> dict[str, Mask]:
        """Every one that there is: in Python, native, and both by size."""
        found = {"python": create_mask(None), "both": mask}
        if NATIVE_MASK is not None:
            found["native"] = NATIVE_MASK
        return found

    def test_example_of_the_rfc(self) -> None:
        for name, each in self.masks().items():
            self.assertEqual(each(b"Hello", KEY), b"\x7f\x9f\x4d\x51\x58", name)

    def test_every_size_around_the_native_one(self) -> None:
        data = bytes(range(256)) * 2
        for size in range(NATIVE_FROM + 70):
            for start in range(4):  # also of data that begins at any address
                piece = data[start : start + size]
                for name, each in self.masks().items():
                    self.assertEqual(each(piece, KEY), reference(piece, KEY), f"{name}, {size} bytes")

    @given(KEYS, SIZES.flatmap(lambda size: st.binary(min_size=size, max_size=size)))
    def test_any_data(self, key: bytes, data: bytes) -> None:
        for name, each in self.masks().items():
            self.assertEqual(each(data, key), reference(data, key), name)
            self.assertEqual(each(bytes(each(data, key)), key), data, name)

    @given(KEYS, st.lists(SIZES, max_size=5))
    def test_a_payload_in_pieces(self, key: bytes, sizes: list[int]) -> None:
        pieces = [bytes((size + at) % 251 for at in range(size)) for size in sizes]
        for name, each in self.masks().items():
            rest = key
            found = bytearray()
            for piece in pieces:
                found += each(piece, rest)
                rest = rotate(rest, len(piece))
            self.assertEqual(found, reference(b"".join(pieces), key), name)

    def test_what_is_masked_is_not_changed(self) -> None:
        data = bytes(NATIVE_FROM)
        native()(data, KEY)
        self.assertEqual(data, bytes(NATIVE_FROM))


class ChoiceTests(SynchronousTestCase):
    """Which mask is used for what."""

    def test_by_size(self) -> None:
        taken: list[int] = []

        def told(data: bytes, key: bytes) -> bytes:
            taken.append(len(data))
            return mask_in_python(data, key)

        chosen = create_mask(told)
        for size in (0, 1, NATIVE_FROM - 1, NATIVE_FROM, NATIVE_FROM + 1):
            self.assertEqual(chosen(bytes(size), KEY), reference(bytes(size), KEY))
        self.assertEqual(taken, [NATIVE_FROM, NATIVE_FROM + 1])

    def test_without_a_native_one(self) -> None:
        self.assertIsNone(create_native_mask(None))
        self.assertIs(create_mask(None), mask_in_python)

    def test_a_module_that_is_not_what_was_expected(self) -> None:
        native()
        import _nvx_xormasker as real

        def renamed() -> object:
            return SimpleNamespace(ffi=real.ffi, lib=SimpleNamespace(xormask=None))

        def other_arguments() -> object:
            lib = SimpleNamespace(
                nvx_xormask_new=lambda key, length: None,
                nvx_xormask_process=real.lib.nvx_xormask_process,
                nvx_xormask_free=real.lib.nvx_xormask_free,
            )
            return SimpleNamespace(ffi=real.ffi, lib=lib)

        def other_results() -> object:
            lib = SimpleNamespace(
                nvx_xormask_new=real.lib.nvx_xormask_new,
                nvx_xormask_process=lambda masker, data, length: None,
                nvx_xormask_free=real.lib.nvx_xormask_free,
            )
            return SimpleNamespace(ffi=real.ffi, lib=lib)

        self.assertIsNotNone(create_native_mask(real))
        for make in (renamed, other_arguments, other_results):
            self.assertIsNone(create_native_mask(make()), make.__name__)

    def test_native_where_autobahn_is(self) -> None:
        """The module is looked for under the name that autobahn gives it."""
        from autobahn.websocket import HAS_NVX

        self.assertEqual(NATIVE_MASK is not None, HAS_NVX)
