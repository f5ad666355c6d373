"""The shipped recipes; installed as the package `vtp_recipes`."""

RENAMED = {
    "ae_vit_l_d256": "ae_abl_l_d256",
    "ae_vit_l_d256_gan": "ae_abl_l_d256_gan",
}
"""Recipes that went -> the one that took their place."""

GROUPS = {
    "To start from": ("quickstart", "quickstart_gan", "dino_tok_quickstart", "vtp_nano"),
    "Tokenizers on frozen encoders": ("dino_tok_ae", "dino_tok_vq", "rae", "raev2_k23"),
    "The final models of VTP": ("vtp_s", "vtp_s_gan", "vtp_b", "vtp_b_gan", "vtp_l", "vtp_l_gan"),
}
"""Title in `vtp recipes list` -> recipes, in the order of a user's interest; the others come after them."""
