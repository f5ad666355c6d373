"""What is made of an image: crops, augmentations, masks."""
