"""The VMs of this node: definition files, QEMU processes, figures and power actions."""
