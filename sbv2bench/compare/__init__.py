"""Differences between results of one protocol, with intervals and corrected p-values.

In: stored results. Out: a Comparison, and its tables as text. A newcomer may add a format (tables); the statistics are in
metrics/comparison.
"""
