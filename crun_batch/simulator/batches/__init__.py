"""Batches as providers sell them: files and batches in OpenAI's form, inline in Anthropic's and OpenRouter's."""
