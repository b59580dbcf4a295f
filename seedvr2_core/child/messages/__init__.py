"""What the messages between parent and child are made of; `protocol.py` puts them together."""
