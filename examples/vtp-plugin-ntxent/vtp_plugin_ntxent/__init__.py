"""NT-Xent between two crops of a view: an example of a plugin in a package of its own."""
