"""What every process needs: settings, logs, metrics, health, retries. Import the module.

There are no names here: a command that reads the settings shall not pay for the rest.
"""
