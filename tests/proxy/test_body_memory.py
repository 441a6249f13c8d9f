"""How many bytes of bodies may be held, together and by one user."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.http.failures import NoRoomForBody
from ccmproxy.proxy.body_memory import ALWAYS, BodyMemory
from tests.profiles import examples

MOST = 100
USERS = ("alice", "bob", "carol")


class ReservationTests(SynchronousTestCase):
    """What requests reserve, and what is left of it."""

    def test_half_for_one_user(self) -> None:
        memory = BodyMemory()
        first, second = (memory.reservation("alice", MOST, 0) for _ in range(2))
        first.grow(30)
        self.assertRaises(NoRoomForBody, second.grow, 21)
        self.assertEqual((memory.held, second.size), (30, 0), "what was refused is not held")
        second.grow(20)
        self.assertRaises(NoRoomForBody, first.grow, 1)
        memory.reservation("bob", MOST, 0).grow(50)
        self.assertRaises(NoRoomForBody, memory.reservation("carol", MOST, 0).grow, 1)
        self.assertEqual(memory.held, 100)

    def test_released(self) -> None:
        memory = BodyMemory()
        reservation = memory.reservation("alice", MOST, 0)
        reservation.grow(50)
        reservation.release()
        reservation.release()
        self.assertEqual((memory.held, reservation.size), (0, 0))
        memory.reservation("alice", MOST, 0).grow(50)

    def test_resized(self) -> None:
        memory = BodyMemory()
        reservation = memory.reservation("alice", MOST, 0)
        for size in (10, 50, 5, 5, 0, 7):
            reservation.resize(size)
            self.assertEqual((memory.held, reservation.size), (size, size))
        self.assertRaises(NoRoomForBody, reservation.resize, 51)
        self.assertEqual((memory.held, reservation.size), (7, 7))

    def test_less_is_always_possible(self) -> None:
        """Also after a reload has lowered what may be held."""
        memory = BodyMemory()
        before = memory.reservation("alice", 1000, 0)
        before.grow(400)
        after = memory.reservation("alice", MOST, 0)
        self.assertRaises(NoRoomForBody, after.grow, 1)
        before.resize(399)
        before.release()
        after.grow(50)

    def test_what_is_small_is_never_refused(self) -> None:
        """It counts, so that the others have less."""
        memory = BodyMemory()
        memory.reservation("alice", MOST, 0).grow(50)
        memory.reservation("bob", MOST, 0).grow(50)
        small = memory.reservation("alice", MOST, 10)
        small.grow(4)
        small.grow(6)
        self.assertRaises(NoRoomForBody, small.grow, 1)
        self.assertEqual((memory.held, small.size), (110, 10))
        self.assertRaises(NoRoomForBody, memory.reservation("carol", MOST, 0).grow, 1)

    def test_what_could_ever_be_held(self) -> None:
        memory = BodyMemory()
        self.assertEqual(memory.reservation("alice", MOST, 0).largest, 50)
        self.assertEqual(memory.reservation("alice", MOST, 70).largest, 70)
        self.assertEqual(memory.reservation("alice", 512 * 1024).largest, 256 * 1024)
        self.assertEqual(memory.reservation("alice", 2).largest, ALWAYS)

    @examples(200)
    @given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 120)), max_size=40))
    def test_never_more_than_allowed(self, steps: list[tuple[int, int]]) -> None:
        memory = BodyMemory()
        requests = [memory.reservation(USERS[number % 3], MOST, 0) for number in range(6)]
        for number, size in steps:
            before = [each.size for each in requests]
            try:
                requests[number].resize(size)
            except NoRoomForBody:
                self.assertEqual([each.size for each in requests], before)
            for user in range(3):
                self.assertLessEqual(sum(each.size for each in requests[user::3]), MOST // 2)
            self.assertEqual(memory.held, sum(each.size for each in requests))
            self.assertLessEqual(memory.held, MOST)
        for each in requests:
            each.release()
        self.assertEqual(memory.held, 0)
