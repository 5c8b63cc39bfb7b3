"""Times and memory, each beside its peers in the same run: ``python tests/bench`` (``make bench``)."""
