"""`vtp new-plugin`: the files of a plugin that works, ready to edit."""
