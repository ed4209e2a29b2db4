"""Several rows in one request: which stand together, what the journal knows of each, when packing ends."""
