"""First-party plugins, one folder each; they come through the same entry points as anyone's."""
