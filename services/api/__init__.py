"""The HTTP service: recommendations when they are asked for, clicks in, and the live page."""
