"""Jinja templates of cards. In the wheel they are `hf_optical.hub_cards`."""
