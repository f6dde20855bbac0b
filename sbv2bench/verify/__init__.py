"""A model of the catalog in, by id; out comes what this machine makes of it, beside what others found, in a file to send in.

`verify` runs it, `comparison` sets its numbers beside those that were sent in before and those that the paper prints. The file's
schema is `sbv2bench.results.verifications`; `sbv2bench.boards.verifications` decides what is counted.
"""
