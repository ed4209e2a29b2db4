"""Batches as providers sell them: files and batches in OpenAI's form, message batches in Anthropic's."""
