"""The paper's tables and figures beside our own numbers, with every difference of protocol named.

In: a table's name and stored results. Out: rows that agree, disagree, or are not comparable, and why. A newcomer may correct a
tolerance or a printed number: catalog/tables.yaml, catalog/published.csv.
"""
