"""Code that services and trainer share: message contracts, the model, and clients."""
