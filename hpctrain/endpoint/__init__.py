"""Models behind OpenAI-compatible HTTP endpoints: judges and teachers."""
