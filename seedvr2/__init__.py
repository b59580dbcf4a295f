"""What other programs import: `seedvr2.client` talks to a gateway (docs/developer.md)."""
