"""Expected and actual outcomes of the demo's scripted requests."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One scripted request: its description, the expected outcome, and the actual one."""

    name: str
    expected: str
    observed: str

    @property
    def went_well(self) -> bool:
        """Whether the actual outcome is the expected one."""
        return self.expected == self.observed


def report(outcomes: list[Outcome]) -> bool:
    """Print a table; return True if every request had the expected outcome."""
    width = max(len(outcome.name) for outcome in outcomes)
    for outcome in outcomes:
        print(f"{'ok  ' if outcome.went_well else 'FAIL'}  {outcome.name:<{width}}  {outcome.observed}")
        if not outcome.went_well:
            print(f"      {'':<{width}}  should have been: {outcome.expected}")
    failed = sum(not outcome.went_well for outcome in outcomes)
    print(f"{len(outcomes)} requests, {failed} not as they should be")
    return not failed
