"""Files to prompts: job files, tables, templates. Reads the disk; knows no network, no money, no journal."""
