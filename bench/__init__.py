"""Benchmarks: ccmproxy beside other proxies, in one run. ``python -m bench``; see docs/benchmarks.md."""
