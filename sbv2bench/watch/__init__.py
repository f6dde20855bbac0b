"""A training run's exports, scored as they appear: one curve a metric.

In: a run's folder as the trainer writes it (`exports/<step>/`, `export/`, `done.json`), of which nothing is changed. Out, in its
`watch/`: a result file an export, curve.csv and index.html. A newcomer may change what is told of a curve.
"""
