"""The worker's job done by another stream processor, to be measured beside ours."""
