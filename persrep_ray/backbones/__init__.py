"""Vision transformers behind one interface, split into a frozen prefix and an adapted suffix; the LoRA slot."""
