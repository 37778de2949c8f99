"""The generator `dreambooth` fine-tunes a text-to-image model to an object and samples images of it in new scenes."""
