"""Prompts for text-to-image models: from the library, from the user, or from a language model."""
