"""The live page: the stream as it flows, one shopper at a time, and the registry."""
