"""Does a generator learn VTP's latents in fewer steps than distilled ones? See README.md."""
