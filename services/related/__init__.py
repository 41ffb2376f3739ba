"""`nextclick related`: related items of the served version onto their topic."""
