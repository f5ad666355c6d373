"""The source `image_list`: image files that a table lists, with captions and labels."""
