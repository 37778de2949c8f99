"""The four tasks on many photos under many adapters."""
