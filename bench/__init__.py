"""Measurements that take too long for a test: each prints a table and can be run alone."""
