"""The study behind docs/results: what is run, how it is run, and how its numbers are reported."""
