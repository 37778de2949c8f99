"""The generator `dreambooth`: a text-to-image model is fine-tuned to the object and draws it in new scenes."""
