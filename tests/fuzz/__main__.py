"""``python -m tests.fuzz``: run the targets again and again with other data, until the time is over or one fails."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.profiles import PROFILE, SEED

TARGETS = sorted(path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py"))


def main(arguments: Sequence[str]) -> int:
    """Run, and say how to see a failure again. Exit status: 0; 1 when a target failed."""
    parser = argparse.ArgumentParser("python -m tests.fuzz", description=(__doc__ or "").split(": ", 1)[1])
    parser.add_argument("--minutes", type=float, default=10.0, help="how long to go on (10)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all")
    options = parser.parse_args(arguments)
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    modules = [f"tests.fuzz.test_{name}" for name in options.targets or TARGETS]
    deadline = time.monotonic() + options.minutes * 60
    rounds = 0
    while time.monotonic() < deadline:
        for module in modules:
            seed = str(random.SystemRandom().getrandbits(32))
            command = [sys.executable, "-m", "twisted.trial", "--temp-directory=_trial_temp_fuzz", module]
            done = subprocess.run(
                command,
                env={**os.environ, PROFILE: "deep", SEED: seed},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
            if done.returncode:
                sys.stdout.write(done.stdout.decode("utf-8", "replace"))
                print(f"Once more: {PROFILE}=deep {SEED}={seed} {' '.join(command[:3])} {module}")
                return 1
            if time.monotonic() >= deadline:
                break
        rounds += 1
        print(f"round {rounds}: nothing found", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
