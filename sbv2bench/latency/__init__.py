"""How long a model takes from caption to pixels: plan, timing, arithmetic, memory, and the tables of what was found.

In: models and a protocol. Out: a LatencyResult, its table and its board. A newcomer may add a column (board, table); timing and
arithmetic decide what the numbers mean.
"""
