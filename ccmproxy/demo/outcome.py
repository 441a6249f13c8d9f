"""What a scripted request of the demo should become, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One scripted request: what it was, what should become of it, what became of it."""

    name: str
    expected: str
    observed: str

    @property
    def went_well(self) -> bool:
        """It became what it should."""
        return self.expected == self.observed


def report(outcomes: list[Outcome]) -> bool:
    """Print a table; True if every request went as it should."""
    width = max(len(outcome.name) for outcome in outcomes)
    for outcome in outcomes:
        print(f"{'ok  ' if outcome.went_well else 'FAIL'}  {outcome.name:<{width}}  {outcome.observed}")
        if not outcome.went_well:
            print(f"      {'':<{width}}  should have been: {outcome.expected}")
    failed = sum(not outcome.went_well for outcome in outcomes)
    print(f"{len(outcomes)} requests, {failed} not as they should be")
    return not failed
