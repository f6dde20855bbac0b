"""What a run writes down, and the numbers that the paper prints.

In: measured values with their protocol. Out: result files that explain themselves. records has the fields, store reads and
writes files, published has the paper's numbers. A newcomer may add a field that old files can do without.
"""
