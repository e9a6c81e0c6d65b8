"""The lab: a real tiny guest, the demo fleet that boots it, and what `make run` starts. No part of the product."""
