"""The source `image_folder`: images in folders named for their class."""
