"""Which samples a step reads, and the workers that read them."""
