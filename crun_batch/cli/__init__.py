"""The command line: argv to one public call, its result to words and an exit code."""
