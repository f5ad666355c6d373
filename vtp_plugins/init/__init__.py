"""`vtp init`: looks at images and writes a recipe that trains on them."""
