"""Flow matching on the latents of a frozen tokenizer, by a diffusion transformer."""
