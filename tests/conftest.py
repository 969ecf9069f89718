"""For all tests: no time limit on a single example of a property; a busy machine would make it fail by chance."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("tsuroku", deadline=None)
settings.load_profile("tsuroku")
