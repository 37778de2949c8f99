"""The tasks as pure functions on arrays: classification, retrieval, detection, segmentation. No model, no Ray."""
