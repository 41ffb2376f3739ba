"""`nextclick evaluate`: offline comparison of methods on a file, a log or a simulated world."""
