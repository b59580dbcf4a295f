"""Pictures: what is said about them, and how decoded ones become upright R'G'B'."""
