"""Leaderboards and the paper's claims, as files built from result files and published numbers alone.

In: the folder leaderboards/. Out: its tables, pages and pictures. `files` writes or checks them; every other module is a part
of what they say.
"""
