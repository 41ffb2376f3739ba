"""The processes of nextclick: simulator, worker, and the command line that starts them."""
