"""Settings, logs, metrics, health and retries of every process.

Import the modules: nothing is re-exported here, so that a command loads only those that it needs.
"""
