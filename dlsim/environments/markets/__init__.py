"""Markets that know nothing of what is traded: prices and shares from bids."""
