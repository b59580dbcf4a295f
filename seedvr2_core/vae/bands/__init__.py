"""Single frames worked in bands of rows, for cards that do not hold several of them."""
