"""The shipped recipes; installed as the package `vtp_recipes`."""

RENAMED = {
    "ae_vit_l_d256": "ae_abl_l_d256",
    "ae_vit_l_d256_gan": "ae_abl_l_d256_gan",
}
"""Recipes that went -> the one that took their place."""
