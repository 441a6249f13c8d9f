"""Tests of :mod:`ccmproxy.dialects.claude.usage_shapes`: what is understood is taken, the rest is left."""

from __future__ import annotations

from hypothesis import given
from twisted.trial.unittest import SynchronousTestCase

from ccmproxy.dialects.claude.usage_shapes import figure, usual_shape
from ccmproxy.dialects.claude.windows import read_usage
from tests.dialects.claude.test_account_format import ANY_JSON

AT = "2026-11-18T12:26:40Z"


class ShapeTests(SynchronousTestCase):
    def test_the_usual_shape_stays(self) -> None:
        usual = {"five_hour": {"utilization": 5.0, "resets_at": AT}, "seven_day": None, "extra": [1]}
        self.assertEqual(usual_shape(usual), usual)

    def test_listed_windows(self) -> None:
        answer = {
            "limits": [
                {"kind": "session", "percent": 33, "resets_at": AT},
                {"id": "weekly_all", "utilization": 12.0, "resets_at": AT},
                {"kind": "weekly_scoped", "percent": 0, "scope": {"model": {"display_name": "Opus 4.5"}}},
                {"kind": "weekly_scoped", "percent": 9, "scope": "sonnet", "resets_at": AT},
            ]
        }
        shaped = usual_shape(answer)
        self.assertEqual(shaped["five_hour"], {"utilization": 33, "resets_at": AT})
        self.assertEqual(shaped["seven_day"], {"utilization": 12, "resets_at": AT})
        self.assertEqual(shaped["seven_day_sonnet"], {"utilization": 9, "resets_at": AT})
        self.assertEqual(shaped["seven_day_opus_4_5"], {"utilization": 0, "resets_at": None})

    def test_flat_windows_come_first(self) -> None:
        flat = {"utilization": 5.0, "resets_at": AT}
        answer = {"five_hour": flat, "seven_day": None, "limits": [{"kind": "session", "percent": 99}]}
        self.assertEqual(usual_shape(answer)["five_hour"], flat)
        answer["limits"] = [{"kind": "weekly_all", "percent": 99}]
        self.assertEqual(usual_shape(answer)["seven_day"], {"utilization": 99, "resets_at": None})

    def test_what_is_not_understood_is_left(self) -> None:
        odd: list[object] = [None, 5, "x", {}, [7, None, {"kind": 5}, {"kind": "session"}, {"percent": 5}]]
        odd += [
            [{"kind": "session", "percent": "much"}],
            [{"kind": "weekly_scoped", "percent": 5, "scope": {}}],
        ]
        for limits in odd:
            self.assertEqual(usual_shape({"limits": limits}), {"limits": limits}, limits)

    def test_figures(self) -> None:
        for value, expected in (
            *((5, 5), (5.5, 5.5), ("5.0", 5), ("0", 0)),
            *(
                (None, None),
                ("", None),
                ("much", None),
                ("nan", None),
                ("1e999", None),
                (True, None),
                ([], None),
            ),
        ):
            self.assertEqual(figure(value), expected, value)

    @given(ANY_JSON)
    def test_any_json(self, value: object) -> None:
        for answer in (
            {"limits": value},
            {"five_hour": value, "limits": [{"kind": "session", "percent": value, "resets_at": value}]},
            {"limits": [{"kind": value, "percent": 5, "scope": value}]},
        ):
            read_usage(usual_shape(answer))
