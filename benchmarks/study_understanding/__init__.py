"""Does what latents mean forecast what a generator makes of them?"""
