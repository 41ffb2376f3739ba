"""The Python interface: clicks, recommenders and topics, for notebooks and jobs.

`nextclick/__init__.py` exports its names, and imports each module at its first use.
"""
