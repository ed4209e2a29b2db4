"""From a job file to a `Job`: YAML with line numbers, every mistake at once, the variants of a sweep."""
