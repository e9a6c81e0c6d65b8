"""`make bench`: the product against its baselines, in one run, on this machine."""
