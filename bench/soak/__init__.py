"""A long run of real daemons under load, faults and disturbances, which judges by itself what became of every request.

``python -m bench.soak --minutes N --seed S``; docs/soak.md says what happens in it and what its table means.
"""
