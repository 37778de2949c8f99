"""What text-to-image models are asked for: scenes that come with the library, a user's own or a language model's."""
