"""The Jinja templates of what is published. In the wheel they are `hf_optical.hub_cards`."""
