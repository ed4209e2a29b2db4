"""From rows to prompts: MiniJinja templates, messages, parts, whole bodies."""
