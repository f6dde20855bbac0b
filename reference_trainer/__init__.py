"""The trainer of SwiftBrush v2, and of the mini family from seeds alone. README.md has the method on one page.

In: a recipe (recipes/*/*.yaml, config.py) and captions. Out: a run's folder with log, samples, checkpoints and an export that
sbv2bench evaluates. Start reading at loop.py. A newcomer may add a recipe, or a loss as a term in a file of its own.
"""
