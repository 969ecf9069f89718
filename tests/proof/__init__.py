"""Proofs that take minutes to hours: `make proof`. Each module here with a function `prove(report)` is one of them."""
