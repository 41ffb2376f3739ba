"""What services and trainer have in common: contracts, model, ports."""
