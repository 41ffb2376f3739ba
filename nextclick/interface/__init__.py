"""The Python interface: clicks, recommenders and topics, for notebooks and jobs.

`nextclick/__init__.py` offers its names and imports a module of it at the first use.
"""
