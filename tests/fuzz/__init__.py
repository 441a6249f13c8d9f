"""Fuzzing: a target for each parser that reads what strangers send (F19, F63).

Each begins with what is valid, damages it (:mod:`.mutation`), and asserts three things: nothing is raised but the
parser's own error; the result of a parser that takes its input in pieces does not depend on the pieces; and the work,
counted in lines and bytes (:mod:`tests.effort`) and never in time, is at most linear in the input.

``make test`` runs each for a second. ``make fuzz MINUTES=10`` goes on with other data until it finds something or the
time is over (``python -m tests.fuzz``).
"""
