"""Tests of ccmproxy, laid out like the package. ``tests.interop`` skips itself where its programs are missing."""

from tests import profiles

profiles.choose()
