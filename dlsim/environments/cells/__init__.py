"""Small cells: radio, markets for their capacity, bidding."""
