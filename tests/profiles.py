"""How hard properties are tested, in one place: tests/__init__.py chooses before any test is imported.

``quick`` is for every day and for ``make test``. It draws the same examples each time, and nothing in it depends on
how fast the machine is, so that a run never fails by chance. ``deep`` is for ``make test-deep``: five times as many
examples, others with every seed. The environment variable CCMPROXY_HYPOTHESIS names the profile, and
CCMPROXY_HYPOTHESIS_SEED (a whole number) the seed of a deep run; without one, one is drawn. Whatever fails says how to
see it again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import hypothesis.core
from hypothesis import HealthCheck, settings  # noqa: TID251 - this is the place

PROFILE: Final = "CCMPROXY_HYPOTHESIS"
SEED: Final = "CCMPROXY_HYPOTHESIS_SEED"

#: By what each profile multiplies the number of examples that a test asks for.
SCALES: Final = {"quick": 1, "deep": 5}
#: Examples of a property that does not say how many.
USUAL: Final = 100

_scale = SCALES["quick"]


def choose(environ: Mapping[str, str] = os.environ) -> None:
    """Take up the profile that ``environ`` names. Raises ValueError for a profile or a seed that is none."""
    global _scale
    name = environ.get(PROFILE) or "quick"
    if name not in SCALES:
        raise ValueError(f"{PROFILE}={name}: not one of {', '.join(SCALES)}")
    _scale = SCALES[name]
    seed, told = None, ""
    if name == "deep":
        seed = int(environ.get(SEED) or random.SystemRandom().getrandbits(32))
        told = f"Seen with {PROFILE}={name} {SEED}={seed}"
    # What --hypothesis-seed sets under pytest.
    hypothesis.core.global_force_seed = seed  # type: ignore[assignment]
    settings.register_profile(
        name,
        max_examples=USUAL * _scale,
        derandomize=name == "quick",
        database=None,
        deadline=None,
        print_blob=name == "deep",
        # Several at once come as a group of exceptions, of which trial prints nothing but the number.
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    settings.load_profile(name)
    hypothesis.core.add_note = _note_taker(told)  # type: ignore[attr-defined]


def examples(number: int, **others: Any) -> settings:
    """Settings of a property that is tested with ``number`` examples, and in a deeper run with so many more.

    ``others`` are Hypothesis' own; may stand above a test, or be given to a state machine.
    """
    return settings(max_examples=number * _scale, **others)


def _note_taker(told: str) -> Callable[[BaseException, str], None]:
    """What puts the notes that Hypothesis leaves on an exception (the example, how to reproduce it) into its text.

    trial prints no notes, nor do its workers pass them on. ``told`` stands before the first one.
    """

    def add_note(error: BaseException, note: str) -> None:
        if told and told not in getattr(error, "__notes__", ()):
            error.add_note(told)
            note = f"{told}\n{note}"
        error.add_note(note)
        text = str(error.args[0]) if error.args else ""
        error.args = (f"{text}\n{note}", *error.args[1:])

    return add_note
