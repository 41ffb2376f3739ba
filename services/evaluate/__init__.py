"""`nextclick evaluate`: methods compared on a file, a log or a made world, offline."""
