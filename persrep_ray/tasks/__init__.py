"""The four tasks as pure functions on arrays, which training, evaluation and serving share."""
