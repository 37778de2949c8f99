"""Text-to-image models: loading, personal weights, losses and sampling."""
