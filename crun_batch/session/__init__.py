"""One session of sending: from the first request to the last record, with its progress and an orderly end."""
