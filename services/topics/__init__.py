"""What is wrong with a clicks topic: `nextclick topics check`."""
