"""Runs methods on one data set, and reports the results.

`compare` fits and ranks, `summary` computes numbers with their errors from the ranks (`document` is
their schema), and `terminal`, `plots` and `page` show a document.
"""
