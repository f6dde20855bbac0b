"""Leaderboards and the paper's claims, as files built from result files and published numbers alone.

In: the folder leaderboards/. Out: its tables, its page, and the built parts of READMEs. `files` writes or checks them all; every
other module is one part. A newcomer may add a column (tables) or a part of a README (readmes).
"""
