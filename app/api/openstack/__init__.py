"""The small part of Nova and Keystone that OpenStack clients need, and what hangs below their servers."""
