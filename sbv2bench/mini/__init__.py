"""The mini family: a captioned world made from seeds, and tiny trained networks that draw and judge it.

In: a seed and an index. Out: a caption, its attributes and a 32 px picture, the same on every machine. weights/ holds what the
trainer made. A newcomer may read all of it, but a change of the world changes every mini number and voids the weights.
"""
