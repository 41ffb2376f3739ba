"""The live page: charts of the stream, one shopper's session and list, and the registry."""
