"""Methods side by side on one data set: run them, summarise, and show it to a person.

`compare` fits and ranks, `summary` turns the ranks into numbers with their errors (`document` is
their form), and `terminal`, `plots` and `page` show a document.
"""
