"""From models and suites to results: plan, generate, measure, store.

In: ids, folders and options. Out: an EvalResult in a file. The spine is plan -> generate -> measure -> evaluate; score joins it
with images that somebody else made. A newcomer may change a step without touching the others.
"""
