"""The four tasks: classification, retrieval, detection, segmentation; plain functions on features, no model, no Ray."""
