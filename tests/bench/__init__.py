"""Measures the unit beside its peers: `make bench`. What it costs, how fast it tells, how much memory it holds."""
