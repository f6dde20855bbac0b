"""A recipe rehearsed on a laptop before a GPU is rented: its very code on small copies of its base.

In goes a recipe; out comes a line for each leg of a run, from the warm-up to the evaluation of merged exports. `cutting`
makes configs small, `small_base` writes networks of them, `redirect` leads the recipe there, `first_run` and `legs` prove,
`run` goes from one end to the other. A new leg is a function in `legs` and a line in `run`.
"""
