"""A model under several settings: a frontier in place of a point. In: guidance scales and steps. Out: a stored result of each.

A newcomer may add what is varied: an argument of `settings`, and the option of the command that gives it.
"""
