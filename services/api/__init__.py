"""The HTTP service: recommendations on request, clicks in, and the live page."""
