"""The source `latents`: cached latents of a tokenizer."""
