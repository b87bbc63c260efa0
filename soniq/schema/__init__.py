"""How the tables came to be: numbered SQL files, and the operation that applies them."""
