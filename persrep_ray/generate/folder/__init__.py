"""The generator `folder` takes synthetic images that the user already has."""
